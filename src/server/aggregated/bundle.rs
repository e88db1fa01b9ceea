//! Exchanges certificates with the cluster: the APIService receives the CA that signs the serving certificate, and a
//! ConfigMap contains the API server's front proxy settings.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde_json::json;

use super::tls::{Authority, CERTIFICATE_RENEWAL_AGE, FrontProxy, SharedTrust, Trust};
use super::{GROUP, VERSION};

const CONFIG_NAMESPACE: &str = "kube-system";
const CONFIG_NAME: &str = "extension-apiserver-authentication";
const MANAGER: &str = "elava-query-api";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One object by its name, whenever it exists or changes; never ends, also not on failures.
fn changes_of<K>(api: Api<K>, name: &str) -> impl futures::Stream<Item = K>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let what = name.to_owned();
    let objects = watcher(api, named).default_backoff().applied_objects().inspect_err(move |error| {
        tracing::warn!(%error, object = what, "can't be followed; it is tried again");
    });
    objects.filter_map(|object| async { object.ok() })
}

/// Keeps the CA in the APIService, also when the APIService is applied again.
pub(super) async fn publish(client: kube::Client, ca: String) {
    let api: Api<APIService> = Api::all(client);
    let name = format!("{VERSION}.{GROUP}");
    let bundle = ByteString(ca.into_bytes());
    let mut services = std::pin::pin!(changes_of(api.clone(), &name));
    while let Some(service) = services.next().await {
        let known = service.spec.and_then(|spec| spec.ca_bundle);
        if known.as_ref() == Some(&bundle) {
            continue;
        }
        let patch = Patch::Merge(json!({"spec": {"caBundle": bundle}}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match tokio::time::timeout(CALL_TIMEOUT, api.patch(&name, &params, &patch)).await {
            Ok(Ok(_)) => tracing::info!(service = name, "the APIService knows the CA of the query API"),
            Ok(Err(error)) => {
                tracing::warn!(%error, service = name, "the CA could not be written to the APIService");
            }
            Err(_) => tracing::warn!(service = name, "the CA could not be written to the APIService in time"),
        }
    }
}

/// Follows the API server's front proxy settings, and renews the serving certificate.
pub(super) async fn follow(client: kube::Client, authority: Authority, trust: SharedTrust) {
    let api: Api<ConfigMap> = Api::namespaced(client, CONFIG_NAMESPACE);
    let mut configs = std::pin::pin!(changes_of(api, CONFIG_NAME));
    let mut known: Option<Arc<FrontProxy>> = None;
    loop {
        let reported = tokio::time::timeout(CERTIFICATE_RENEWAL_AGE, configs.next()).await;
        let proxy = match reported {
            Err(_) => known.clone(),
            Ok(None) => return,
            Ok(Some(config)) => match FrontProxy::read(&config) {
                Ok(proxy) if known.as_deref() == Some(&proxy) => continue,
                Ok(proxy) => Some(Arc::new(proxy)),
                Err(error) => {
                    tracing::error!(%error, "no client can use the query API");
                    continue;
                }
            },
        };
        match authority.server(proxy.as_deref()) {
            Ok(server) => {
                known.clone_from(&proxy);
                *trust.write().unwrap_or_else(PoisonError::into_inner) = Trust { server, proxy };
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "no client can use the query API");
            }
        }
    }
}
