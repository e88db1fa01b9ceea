//! The inventory behind the API server: `inventory.elava.dev`, served to kubectl and every other client from the store,
//! not from etcd.
//!
//! - [`tls`]: who may connect, and as which user. [`access`]: what a user may request. [`slots`]: how many requests are
//!   served at once. [`bundle`]: publishes the serving CA to the cluster, and reads the cluster's front proxy settings.
//! - [`discovery`]: the kinds. [`question`], [`selector`]: what is requested. [`refusal`]: errors.
//! - [`objects`], [`table`]: the content of answers. [`list`], [`watch`]: how they are produced.
//!
//! A revision of the store is a resourceVersion. A CloudScan sees the scopes that its own credentials were proven to
//! list. Its namespace sees those and nothing else, and of the past only the times at which they were visible.

mod access;
mod bundle;
mod discovery;
mod list;
mod objects;
mod question;
mod refusal;
mod selector;
mod slots;
mod table;
mod tls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::listen;
use crate::api::namespace_uid;
use crate::inventory::{Facts, Revision};
use crate::store::Store;
use access::{Access, AccessRequest, User};
use discovery::{ApiKind, Kind};
pub use objects::{CloudResourceStatus, ResourceChangeStatus, ResourceHistoryStatus};
use question::{Form, Options, Selection};
use refusal::Refusal;
use slots::Slots;
use tls::{Authority, Peer, SharedTrust, TlsListener, Trust, trusted};

pub const GROUP: &str = "inventory.elava.dev";
pub const VERSION: &str = "v1alpha1";

/// Lists that are written at once: each holds a state, and more would not make the disk faster.
const LIST_SLOTS: usize = 8;
/// The same for one namespace: its readers may be slow.
const LIST_SLOTS_OF_ONE_NAMESPACE: usize = 4;
/// How long a request waits for its slot.
const LIST_SLOT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Concurrent watches: each has a thread, and a state that costs what changed since its last event.
const WATCHES_MAX: usize = 256;

/// Deadline for the API server to return the UID of a namespace.
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(10);

/// Concurrent connections without a certificate of the front proxy: they receive an error, and nothing else.
const UNAUTHENTICATED_CONNECTIONS_MAX: usize = 32;

/// The Service under which the cluster reaches the operator.
#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
}

struct Shared {
    store: Store,
    facts: Facts,
    client: kube::Client,
    trust: SharedTrust,
    access: Access,
    lists: Slots,
    watches: Slots,
}

/// Serves until the task is dropped.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    facts: Facts,
    client: kube::Client,
    service: Service,
    watches_of_one: usize,
) -> std::io::Result<()> {
    let Service { namespace, name } = service;
    let names = vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.cluster.local")];
    let authority = Authority::new(names).map_err(std::io::Error::other)?;
    let server = authority.server(None).map_err(std::io::Error::other)?;
    let trust = SharedTrust::new(Trust { server, proxy: None }.into());
    let mut beside = JoinSet::new();
    beside.spawn(bundle::publish(client.clone(), authority.pem.clone()));
    beside.spawn(bundle::follow(client.clone(), authority, trust.clone()));
    let shared = Shared {
        store,
        facts,
        trust: trust.clone(),
        access: Access::new(client.clone()),
        client,
        lists: Slots::new(LIST_SLOTS, LIST_SLOTS_OF_ONE_NAMESPACE),
        watches: Slots::new(WATCHES_MAX, watches_of_one),
    };
    let app = Router::new().fallback(answer).with_state(Arc::new(shared));
    let listener = TlsListener::new(listener, trust);
    listen::serve(listen::REQUEST_HEAD_TIMEOUT, listener, app, UNAUTHENTICATED_CONNECTIONS_MAX, Peer::is_verified)
        .await
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let (request, _) = request.into_parts();
    respond(&shared, &peer, &request).await.unwrap_or_else(|refusal| {
        tracing::debug!(path = request.uri.path(), reason = refusal.reason, %refusal, "a question was refused");
        refusal.into_response()
    })
}

async fn respond(shared: &Arc<Shared>, peer: &Peer, request: &Parts) -> Result<Response, Refusal> {
    let path = request.uri.path();
    // Reveals only that it runs.
    if matches!(path, "/livez" | "/readyz" | "/healthz") {
        return Ok("ok".into_response());
    }
    let proxy = trusted(&shared.trust).proxy;
    let proxy = proxy.ok_or_else(|| {
        Refusal::unavailable(
            "the API server has not said yet by what its front proxy is known: see the operator's log",
        )
    })?;
    let user = proxy.user(peer, &request.headers)?;
    if request.method != Method::GET {
        return Err(Refusal::method_not_allowed());
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (kind, namespace, name) = match parts.as_slice() {
        ["apis", GROUP, VERSION, "namespaces", namespace, plural, name] => (plural, Some(*namespace), Some(*name)),
        ["apis", GROUP, VERSION, "namespaces", namespace, plural] => (plural, Some(*namespace), None),
        ["apis", GROUP, VERSION, plural] => (plural, None, None),
        ["apis", GROUP, VERSION, plural @ "reports", name] => (plural, None, Some(*name)),
        _ => return document(request),
    };
    if let ("reports", Some(name)) = (*kind, name) {
        return report(shared, &user, (namespace, name), request).await;
    }
    let kind =
        discovery::kind(kind).ok_or_else(|| Refusal::not_found("there is no such resource in the group"))?;
    let form = Form::accepted(&request.headers)?;
    let mut options = Options::parse(request.uri.query().unwrap_or_default())?;
    let verb = match name {
        Some(_) if !options.is_watch => "get",
        _ if options.is_watch => "watch",
        _ => "list",
    };
    if !kind.verbs.contains(&verb) {
        return Err(Refusal::method_not_allowed());
    }
    if let Some(name) = name {
        // A watch of one object is a watch of all with its name.
        options.field_selector = format!("metadata.name={name}");
    }
    let requested = AccessRequest {
        verb,
        resource: kind.plural,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
    };
    shared.access.check(&user, requested).await?;
    answer_request(shared, kind, verb, (namespace, name), options, form).await
}

/// Not in the discovery: it is not an object, and kubectl could not show it.
async fn report(
    shared: &Shared,
    user: &User,
    (namespace, name): (Option<&str>, &str),
    request: &Parts,
) -> Result<Response, Refusal> {
    let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
    let requested =
        AccessRequest { verb: "get", resource: "reports", namespace: namespace.clone(), name: Some(name.clone()) };
    shared.access.check(user, requested).await?;
    let _slot = shared.lists.take_within(namespace.as_deref(), LIST_SLOT_WAIT_MAX).await?;
    let since = tenant_since(shared, namespace.as_deref()).await?;
    let (store, facts) = (shared.store.clone(), shared.facts.clone());
    let query = request.uri.query().unwrap_or_default().to_owned();
    blocking(move || list::report(&store, &facts, (namespace.as_deref(), since), &name, &query)).await
}

/// The revision after which the visible past of a namespace belongs to the namespace that now has the name. A request
/// over all namespaces has no such limit: its user may see what each of them saw.
async fn tenant_since(shared: &Shared, namespace: Option<&str>) -> Result<Revision, Refusal> {
    let Some(namespace) = namespace else { return Ok(Revision::ZERO) };
    let unknown = |why: &dyn std::fmt::Display| {
        Refusal::unavailable(format!("the UID of namespace {namespace} can't be read: {why}"))
    };
    let answer = tokio::time::timeout(NAMESPACE_DEADLINE, namespace_uid(&shared.client, namespace)).await;
    let uid = answer.map_err(|late| unknown(&late))?.map_err(|error| unknown(&error))?;
    let uid = uid.ok_or_else(|| Refusal::not_found(format!("namespaces \"{namespace}\" not found")))?;
    let namespace = namespace.to_owned();
    Ok(shared.store.run_blocking(move |store| store.claim_tenant(&namespace, &uid)).await?)
}

async fn answer_request(
    shared: &Arc<Shared>,
    kind: &'static Kind,
    verb: &str,
    (namespace, name): (Option<&str>, Option<&str>),
    options: Options,
    form: Form,
) -> Result<Response, Refusal> {
    let namespace = namespace.map(str::to_owned);
    let (moments, more): (&[&str], &[&str]) = match kind.api {
        ApiKind::CloudResource => (&["asOf"], &[]),
        ApiKind::ResourceChange => (&["from", "to"], &["change", "resource", "net"]),
        ApiKind::ResourceHistory => (&[], &[]),
    };
    let mut selection = Selection::parse(namespace.clone(), &options, moments, more)?;
    selection.tenant_since = tenant_since(shared, namespace.as_deref()).await?;
    if kind.api == ApiKind::ResourceChange {
        selection.check_change()?;
    }
    let (store, facts) = (shared.store.clone(), shared.facts.clone());
    let name = name.map(str::to_owned);
    if verb == "watch" {
        let permit = shared.watches.take_within(namespace.as_deref(), Duration::ZERO).await?;
        return blocking(move || match kind.api {
            ApiKind::CloudResource => watch::resources(&store, facts, selection, options, form, permit),
            ApiKind::ResourceChange => watch::changes(&store, selection, options, form, permit),
            ApiKind::ResourceHistory => Err(Refusal::method_not_allowed()),
        })
        .await;
    }
    let permit = shared.lists.take_within(namespace.as_deref(), LIST_SLOT_WAIT_MAX).await?;
    let response = blocking(move || match (kind.api, name) {
        (ApiKind::CloudResource, None) => list::resources(&store, facts, selection, options, form),
        (ApiKind::CloudResource, Some(name)) => list::resource(&store, &facts, &selection, &name, form),
        (ApiKind::ResourceChange, _) if selection.is_net => list::difference(&store, selection, options, form),
        (ApiKind::ResourceChange, _) => list::changes(&store, selection, options, form),
        (ApiKind::ResourceHistory, None) => list::histories(&store, selection, options, form),
        (ApiKind::ResourceHistory, Some(name)) => list::history(&store, &selection, &name, form),
    })
    .await?;
    // The slot is held until the last chunk is written.
    Ok(response.map(|body| {
        use futures::StreamExt;
        axum::body::Body::from_stream(body.into_data_stream().map(move |chunk| {
            let _list_slot = &permit;
            chunk
        }))
    }))
}

async fn blocking(work: impl FnOnce() -> Result<Response, Refusal> + Send + 'static) -> Result<Response, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refusal::internal("the store could not be read: see the operator's log")))
}

/// Parsers of external input, for fuzzing.
#[cfg(fuzzing)]
pub mod fuzzed {
    use super::question::{Options, Place, Selection};

    /// The query of a URL: options, with field and label selectors.
    pub fn query(query: &str) {
        let Ok(options) = Options::parse(query) else { return };
        let _ = options.revision();
        for (moments, more) in
            [(&["asOf"][..], &[][..]), (&["from", "to"], &["change", "resource", "net"]), (&[], &[])]
        {
            if let Ok(selection) = Selection::parse(None, &options, moments, more) {
                let _ = selection.check_change();
            }
        }
    }

    /// A continue token is parsed as it was written.
    pub fn token(token: &str) {
        if let Ok(place) = Place::parse(token) {
            assert_eq!(Place::parse(&place.token()).expect("it was written by us"), place);
        }
    }
}

/// The description of the group: it belongs to no tenant, and the API server has checked who reads it.
fn document(request: &Parts) -> Result<Response, Refusal> {
    let path = request.uri.path();
    let accept = request.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_aggregated = accept.split(',').any(|one| {
        ["as=APIGroupDiscoveryList", "g=apidiscovery.k8s.io", "v=v2"]
            .iter()
            .all(|part| one.split(';').any(|own| own.trim() == *part))
    });
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let json = |value: Value| Ok(axum::Json(value).into_response());
    match parts.as_slice() {
        ["apis"] if is_aggregated => {
            let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            Ok(([(header::CONTENT_TYPE, kind)], discovery::aggregated().to_string()).into_response())
        }
        ["apis"] => json(discovery::groups()),
        ["apis", GROUP] => json(discovery::group()),
        ["apis", GROUP, VERSION] => json(discovery::resources()),
        ["openapi", "v3"] => json(discovery::openapi_index()),
        ["openapi", "v3", "apis", GROUP, VERSION] => json(discovery::openapi()),
        _ => Err(Refusal::not_found("the server could not find the requested resource")),
    }
}
