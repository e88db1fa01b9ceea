//! The past behind the API server: `inventory.elava.dev`, served to kubectl and every other client from the
//! store, not from etcd.
//!
//! - [`tls`]: who may connect, and as whom. [`access`]: whether they may ask. [`slots`]: how many at once. [`bundle`]:
//!   what the cluster is told of us, and what it tells us.
//! - [`discovery`]: what there is. [`question`], [`selector`]: what is asked for. [`refusal`]: why not.
//! - [`objects`], [`table`]: what is answered. [`list`], [`watch`]: how.
//!
//! A revision of the store is a resourceVersion. A CloudScan sees what its own credentials were proven on; its
//! namespace sees that and nothing else, of the past only the times for which it was so.

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
use crate::inventory::Revision;
use crate::store::{Store, StoreError};
use access::{Access, User, Wish};
use discovery::Kind;
use question::{Form, Options, Wanted};
use refusal::Refusal;
use slots::Slots;
use tls::{Authority, Peer, SharedTrust, TlsListener, Trust, trusted};

pub const GROUP: &str = "inventory.elava.dev";
pub const VERSION: &str = "v1alpha1";

/// Lists that are written at once: each holds a state, and the disk serves no more of them sooner.
const LISTS: usize = 8;
/// And for one namespace: its readers may be slow.
const LISTS_OF_ONE: usize = 4;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Watches at once: each has a thread, and a state that costs what changed since it was told.
const WATCHES: usize = 256;

/// Until when the API server must say whose a namespace is.
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(10);

/// Connections at once of those who show no certificate of the front proxy: they are told so, and no more.
const STRANGERS: usize = 32;

/// Where the cluster finds us.
#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
}

struct Shared {
    store: Store,
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
        trust: trust.clone(),
        access: Access::new(client.clone()),
        client,
        lists: Slots::new(LISTS, LISTS_OF_ONE),
        watches: Slots::new(WATCHES, watches_of_one),
    };
    let app = Router::new().fallback(answer).with_state(Arc::new(shared));
    let listener = TlsListener::new(listener, trust);
    listen::serve(listen::HEAD, listener, app, STRANGERS, Peer::is_verified).await
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
    // Says nothing but that it runs.
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
        // A watch of one is a watch of all that have its name.
        options.field_selector = format!("metadata.name={name}");
    }
    let wish = Wish {
        verb,
        resource: kind.plural,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
    };
    shared.access.check(&user, wish).await?;
    told(shared, kind, verb, (namespace, name), options, form).await
}

/// Not in the discovery: no object, and nothing that kubectl could show.
async fn report(
    shared: &Shared,
    user: &User,
    (namespace, name): (Option<&str>, &str),
    request: &Parts,
) -> Result<Response, Refusal> {
    let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
    let wish = Wish { verb: "get", resource: "reports", namespace: namespace.clone(), name: Some(name.clone()) };
    shared.access.check(user, wish).await?;
    let _slot = shared.lists.take_within(namespace.as_deref(), TURN).await?;
    let since = tenant_since(shared, namespace.as_deref()).await?;
    let (store, query) = (shared.store.clone(), request.uri.query().unwrap_or_default().to_owned());
    blocking(move || list::report(&store, (namespace.as_deref(), since), &name, &query)).await
}

/// The revision after which what a namespace saw was seen by the one that there is now. Of a request over all namespaces
/// all of it: whoever may see all of them may see what each saw.
async fn tenant_since(shared: &Shared, namespace: Option<&str>) -> Result<Revision, Refusal> {
    let Some(namespace) = namespace else { return Ok(Revision::ZERO) };
    let unknown = |why: &dyn std::fmt::Display| {
        Refusal::unavailable(format!("whose namespace {namespace} is can't be told: {why}"))
    };
    let asked = tokio::time::timeout(NAMESPACE_DEADLINE, namespace_uid(&shared.client, namespace)).await;
    let uid = asked.map_err(|late| unknown(&late))?.map_err(|error| unknown(&error))?;
    let uid = uid.ok_or_else(|| Refusal::not_found(format!("namespaces \"{namespace}\" not found")))?;
    let (store, namespace) = (shared.store.clone(), namespace.to_owned());
    let since = tokio::task::spawn_blocking(move || store.tenant_since(&namespace, &uid)).await;
    Ok(since.unwrap_or(Err(StoreError::Poisoned))?)
}

async fn told(
    shared: &Arc<Shared>,
    kind: &'static Kind,
    verb: &str,
    (namespace, name): (Option<&str>, Option<&str>),
    options: Options,
    form: Form,
) -> Result<Response, Refusal> {
    let namespace = namespace.map(str::to_owned);
    let (moments, more): (&[&str], &[&str]) = match kind.name {
        "CloudResource" => (&["asOf"], &[]),
        "ResourceChange" => (&["from", "to"], &["change", "resource", "net"]),
        _ => (&[], &[]),
    };
    let mut wanted = Wanted::parse(namespace.clone(), &options, moments, more)?;
    wanted.tenant_since = tenant_since(shared, namespace.as_deref()).await?;
    if kind.name == "ResourceChange" {
        wanted.check_change()?;
    }
    let store = shared.store.clone();
    let name = name.map(str::to_owned);
    if verb == "watch" {
        let permit = shared.watches.take_within(namespace.as_deref(), Duration::ZERO).await?;
        return blocking(move || match kind.name {
            "CloudResource" => watch::resources(&store, wanted, options, form, permit),
            _ => watch::changes(&store, wanted, options, form, permit),
        })
        .await;
    }
    let permit = shared.lists.take_within(namespace.as_deref(), TURN).await?;
    let response = blocking(move || match (kind.name, name) {
        ("CloudResource", None) => list::resources(&store, wanted, options, form),
        ("CloudResource", Some(name)) => list::resource(&store, &wanted, &name, form),
        ("ResourceChange", _) if wanted.is_net => list::difference(&store, wanted, options, form),
        ("ResourceChange", _) => list::changes(&store, wanted, options, form),
        (_, None) => list::histories(&store, wanted, options, form),
        (_, Some(name)) => list::history(&store, &wanted, &name, form),
    })
    .await?;
    // Its turn lasts until the last of it is written.
    Ok(response.map(|body| {
        use futures::StreamExt;
        axum::body::Body::from_stream(body.into_data_stream().map(move |chunk| {
            let _turn = &permit;
            chunk
        }))
    }))
}

async fn blocking(work: impl FnOnce() -> Result<Response, Refusal> + Send + 'static) -> Result<Response, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refusal::internal("the store could not be read: see the operator's log")))
}

/// What reads what comes from outside, for whoever fuzzes it.
#[cfg(fuzzing)]
pub mod fuzzed {
    use super::question::{Options, Place, Wanted};

    /// The query of a URL: options, with field and label selectors.
    pub fn query(query: &str) {
        let Ok(options) = Options::parse(query) else { return };
        let _ = options.revision();
        for (moments, more) in
            [(&["asOf"][..], &[][..]), (&["from", "to"], &["change", "resource", "net"]), (&[], &[])]
        {
            if let Ok(wanted) = Wanted::parse(None, &options, moments, more) {
                let _ = wanted.check_change();
            }
        }
    }

    /// A continue token reads as it is written.
    pub fn token(token: &str) {
        if let Ok(place) = Place::parse(token) {
            assert_eq!(Place::parse(&place.token()).expect("it was written by us"), place);
        }
    }
}

/// What the group says of itself: nothing that is anybody's, and who reads it the API server has checked.
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
