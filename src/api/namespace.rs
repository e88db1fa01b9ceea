//! Whose a namespace is. One that is deleted and made again under the same name may be another team's: its UID tells.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

/// None where there is no such namespace.
pub async fn namespace_uid(client: &Client, namespace: &str) -> kube::Result<Option<String>> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(api.get_metadata_opt(namespace).await?.and_then(|found| found.metadata.uid))
}
