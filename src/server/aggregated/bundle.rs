//! What the cluster is told of us, and what it tells us: the APIService knows the CA that our certificate is
//! signed by, and a ConfigMap says by what the API server's front proxy is known.

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

use super::tls::{Authority, FrontProxy, RENEWED_AFTER, SharedTrust, Trust};
use super::{GROUP, VERSION};

const CONFIG_NAMESPACE: &str = "kube-system";
const CONFIG_NAME: &str = "extension-apiserver-authentication";
const MANAGER: &str = "elava-query-api";
const DEADLINE: Duration = Duration::from_secs(10);

/// One object by its name, whenever it is there or is changed; goes on for ever, through failures.
fn changes_of<K>(api: Api<K>, name: &str) -> impl futures::Stream<Item = K>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let what = name.to_owned();
    let told = watcher(api, named).default_backoff().applied_objects().inspect_err(move |error| {
        tracing::warn!(%error, object = what, "can't be followed; it is tried again");
    });
    told.filter_map(|object| async { object.ok() })
}

/// Keeps the CA in the APIService, also when somebody applies it anew.
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
        match tokio::time::timeout(DEADLINE, api.patch(&name, &params, &patch)).await {
            Ok(Ok(_)) => tracing::info!(service = name, "the APIService knows the CA of the query API"),
            Ok(Err(error)) => tracing::warn!(%error, service = name, "the APIService could not be told the CA"),
            Err(_) => tracing::warn!(service = name, "the APIService could not be told the CA in time"),
        }
    }
}

/// Follows what the API server says of its front proxy, and renews our certificate.
pub(super) async fn follow(client: kube::Client, authority: Authority, trust: SharedTrust) {
    let api: Api<ConfigMap> = Api::namespaced(client, CONFIG_NAMESPACE);
    let mut configs = std::pin::pin!(changes_of(api, CONFIG_NAME));
    let mut known: Option<Arc<FrontProxy>> = None;
    loop {
        let told = tokio::time::timeout(RENEWED_AFTER, configs.next()).await;
        let proxy = match told {
            Err(_) => known.clone(),
            Ok(None) => return,
            Ok(Some(config)) => match FrontProxy::read(&config) {
                Ok(proxy) if known.as_deref() == Some(&proxy) => continue,
                Ok(proxy) => Some(Arc::new(proxy)),
                Err(error) => {
                    tracing::error!(%error, "nobody can ask the query API");
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
                tracing::error!(%error, cause, "nobody can ask the query API");
            }
        }
    }
}
