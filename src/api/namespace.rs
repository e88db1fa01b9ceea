//! The identity of a namespace. A namespace that is deleted and recreated under the same name may belong to
//! another team: its UID shows it.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

/// `None` if the namespace does not exist.
pub async fn namespace_uid(client: &Client, namespace: &str) -> kube::Result<Option<String>> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(api.get_metadata_opt(namespace).await?.and_then(|found| found.metadata.uid))
}
