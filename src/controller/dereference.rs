//! Objects that a CloudScan references: its Secret.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::{Context, ReconcileError, with_deadline};
use crate::api::{CloudScan, ProviderSpec};
use crate::inventory::Credentials;

/// The credentials that the CloudScan names. Problems that only a user can fix are returned as
/// [`Credentials::Unavailable`]; temporary ones are errors, and retried.
pub(super) async fn credentials(
    scan: &CloudScan,
    provider: &dyn ProviderSpec,
    context: &Context,
) -> Result<Credentials, ReconcileError> {
    let Some(name) = provider.secret() else { return Ok(Credentials::Ambient) };
    let namespace = scan.namespace().unwrap_or_default();
    let keys: Vec<String> = provider.secret_keys().iter().map(|key| format!("--from-literal={key}=...")).collect();
    let keys = keys.join(" ");
    let missing = format!("make one with kubectl create secret generic {name} -n {namespace} {keys}");
    let read = secret(scan, name, missing, context).await?.and_then(|secret| {
        let content = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        provider.credentials(&format!("{namespace}/{name}"), &content.collect())
    });
    Ok(read.map_or_else(Credentials::Unavailable, Credentials::Keys))
}

/// A Secret in the CloudScan's namespace. The inner error is for the author of the CloudScan; if the Secret does not
/// exist, it ends with `missing`.
pub(super) async fn secret(
    scan: &CloudScan,
    name: &str,
    missing: String,
    context: &Context,
) -> Result<Result<Secret, String>, ReconcileError> {
    let namespace = scan.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    match with_deadline(secrets.get_opt(name)).await {
        Ok(Some(secret)) => Ok(Ok(secret)),
        Ok(None) => Ok(Err(format!("there is no Secret {namespace}/{name}: {missing}"))),
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 403 => {
            Ok(Err(not_allowed(&namespace, name, context)))
        }
        Err(error) => Err(error),
    }
}

/// How to allow the operator to read a Secret.
fn not_allowed(namespace: &str, name: &str, context: &Context) -> String {
    let (account, role) = (&context.identity.service_account, &context.identity.credentials_role);
    format!(
        "the operator may not read the Secret {namespace}/{name}: allow it with kubectl create rolebinding \
         elava-credentials -n {namespace} --clusterrole={role} --serviceaccount={account}"
    )
}
