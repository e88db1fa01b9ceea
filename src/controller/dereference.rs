//! Objects that a CloudScan references: its Secret.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::{Context, ReconcileError, with_deadline};
use crate::api::CloudScan;
use crate::cloud::Credentials;

/// An AWS session token has about a thousand characters.
const SECRET_KEY_MAX_BYTES: usize = 16 << 10;

/// The credentials that the CloudScan names. Problems that only a user can fix are returned as
/// [`Credentials::Unavailable`]; temporary ones are errors, and retried.
pub(super) async fn credentials(scan: &CloudScan, context: &Context) -> Result<Credentials, ReconcileError> {
    let reference = scan.spec.provider.aws.as_ref().and_then(|aws| aws.credentials_secret_ref.as_ref());
    let Some(reference) = reference else { return Ok(Credentials::Chain) };
    let (namespace, name) = (scan.namespace().unwrap_or_default(), &reference.name);
    let missing = format!(
        "make one with kubectl create secret generic {name} -n {namespace} --from-literal=AWS_ACCESS_KEY_ID=... \
         --from-literal=AWS_SECRET_ACCESS_KEY=..."
    );
    let secret = secret(scan, name, missing, context).await?;
    Ok(secret.map_or_else(Credentials::Unavailable, |secret| from_secret(&secret, &namespace)))
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

fn from_secret(secret: &Secret, namespace: &str) -> Credentials {
    let value = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        // `echo | base64` leaves a trailing newline, for which AWS returns a misleading error.
        let text = std::str::from_utf8(&bytes.0).ok()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    // They become parts of headers, which must be text: AWS keys consist of letters, digits and +/=.
    let is_key =
        |value: &String| value.len() <= SECRET_KEY_MAX_BYTES && value.bytes().all(|byte| byte.is_ascii_graphic());
    for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        if value(key).is_some_and(|value| !is_key(&value)) {
            return Credentials::Unavailable(format!(
                "the key {key} of the Secret {namespace}/{} holds what no key of AWS's holds, such as a space or a line \
                 break, or is longer than {SECRET_KEY_MAX_BYTES} characters: copy it again",
                secret.name_any()
            ));
        }
    }
    match (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Credentials::Static { access_key_id, secret_access_key, session_token: value("AWS_SESSION_TOKEN") }
        }
        (id, _) => {
            let missing = if id.is_none() { "AWS_ACCESS_KEY_ID" } else { "AWS_SECRET_ACCESS_KEY" };
            Credentials::Unavailable(format!("the Secret {namespace}/{} has no key {missing}", secret.name_any()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn a_newline_at_the_end_of_a_key_is_no_part_of_it_and_a_missing_key_is_named() {
        let with = |pairs: &[(&str, &str)]| {
            let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect();
            let mut secret = Secret { data: Some(data), ..Secret::default() };
            secret.metadata.name = Some("keys".to_owned());
            from_secret(&secret, "team-a")
        };
        let good = with(&[("AWS_ACCESS_KEY_ID", "id\n"), ("AWS_SECRET_ACCESS_KEY", "key")]);
        let Credentials::Static { access_key_id, session_token, .. } = good else { panic!("{good:?}") };
        assert_eq!((access_key_id.as_str(), session_token), ("id", None));
        let bad = with(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", " ")]);
        let Credentials::Unavailable(why) = bad else { panic!("{bad:?}") };
        assert_eq!(why, "the Secret team-a/keys has no key AWS_SECRET_ACCESS_KEY");
        // The SDK panics on some of these.
        let long = "x".repeat(SECRET_KEY_MAX_BYTES + 1);
        for bad in ["AKIA\nGOOD", "AKIA\0GOOD", "AKIA\u{7f}GOOD", "AKIA GOOD", "AKI\u{c4}", &long] {
            for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
                let mut pairs = vec![("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")];
                pairs.retain(|(name, _)| *name != key);
                pairs.push((key, bad));
                let refused = with(&pairs);
                let Credentials::Unavailable(why) = refused else { panic!("{key} {bad:?}") };
                assert!(why.contains(key) && !why.contains("AKI"), "{why}");
            }
        }
    }
}
