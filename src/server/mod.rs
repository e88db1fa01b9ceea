//! What the running operator serves: health and metrics over HTTP, queries over a Unix socket.
//!
//! - [`query`]: the queries and their answers; the CLI queries a file with the same functions.
//! - [`findings`]: queries about findings, owners and the references between resources.
//! - [`aggregated`]: the same for kubectl, behind the API server.
//! - [`backups`]: one file per period, in a folder of another volume.
//! - [`metrics`]: computed at each scrape from the current state, so a series disappears with its object.

pub mod aggregated;
pub mod backups;
pub mod findings;
mod listen;
pub mod metrics;
pub mod query;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::inventory::Facts;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRef, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};

use crate::store::{Store, StoreError};
use metrics::Others;

#[derive(Clone)]
struct Metered {
    store: Store,
    others: Arc<Others>,
}

/// Maximum concurrent connections to metrics and health checks. A scrape and a probe take one each.
const CONNECTIONS_MAX: usize = 64;

/// Serves only `/livez` and `/readyz`, until the task is dropped, on a listener that only a kubelet needs to reach.
pub async fn serve_health(listener: TcpListener, store: Store) -> std::io::Result<()> {
    let app = Router::new().route("/livez", get(live)).route("/readyz", get(live)).with_state(store);
    listen::serve(listen::REQUEST_HEAD_TIMEOUT, listener, app, CONNECTIONS_MAX, |_| false).await
}

/// Serves `/livez`, `/readyz` and `/metrics`, until the task is dropped.
pub async fn serve_http(listener: TcpListener, store: Store, others: Others) -> std::io::Result<()> {
    // Scanning and serving continue while the API server is unavailable, so health does not depend on it.
    let health = Router::new().route("/livez", get(live)).route("/readyz", get(live)).with_state(store.clone());
    let metrics =
        Router::new().route("/metrics", get(scrape)).with_state(Metered { store, others: Arc::new(others) });
    listen::serve(listen::REQUEST_HEAD_TIMEOUT, listener, health.merge(metrics), CONNECTIONS_MAX, |_| false).await
}

/// A store whose disk failed opens its file again by itself; if that keeps failing, a restart may help.
async fn live(State(store): State<Store>) -> Response {
    if store.is_poisoned() {
        (StatusCode::SERVICE_UNAVAILABLE, StoreError::Poisoned.to_string()).into_response()
    } else {
        "ok".into_response()
    }
}

async fn scrape(State(Metered { store, others }): State<Metered>) -> Response {
    match tokio::task::spawn_blocking(move || metrics::render(&store, &others)).await {
        Ok(Ok(text)) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Creates the socket that serves queries, accessible only to the user that the operator runs as.
pub fn bind_socket(path: &Path) -> std::io::Result<UnixListener> {
    // A killed process may have left a socket: redb's lock has shown that no other process holds the store.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What queries read.
#[derive(Clone)]
struct Queried {
    store: Store,
    facts: Facts,
}

impl FromRef<Queried> for Store {
    fn from_ref(queried: &Queried) -> Self {
        queried.store.clone()
    }
}

impl FromRef<Queried> for Facts {
    fn from_ref(queried: &Queried) -> Self {
        queried.facts.clone()
    }
}

/// Serves queries on the socket, until the task is dropped.
pub async fn serve_socket(listener: UnixListener, store: Store, facts: Facts) -> std::io::Result<()> {
    let app = Router::new()
        .route(
            "/v1/resources",
            get(|State(store), State(facts), Query(question)| {
                respond_to(store, move |store| query::resources(store, &facts, &question))
            }),
        )
        .route(
            "/v1/history",
            get(|State(store), Query(question)| respond_to(store, move |s| query::history(s, &question))),
        )
        .route(
            "/v1/diff",
            get(|State(store), Query(question)| respond_to(store, move |s| query::diff(s, &question))),
        )
        .route(
            "/v1/findings",
            get(|State(store), Query(question)| respond_to(store, move |s| findings::findings(s, &question))),
        )
        .route(
            "/v1/owners",
            get(|State(store), State(facts), Query(question)| {
                respond_to(store, move |store| findings::owners(store, &facts, &question))
            }),
        )
        .route(
            "/v1/tree",
            get(|State(store), State(facts), Query(question)| {
                respond_to(store, move |store| findings::tree(store, &facts, &question))
            }),
        )
        .route("/v1/watch", get(async |State(store), Query(question)| watch(&store, question)))
        .route("/v1/store/check", get(|State(store)| respond_to(store, query::check)))
        .route("/v1/store/stats", get(|State(store)| respond_to(store, query::stats)))
        .route(
            "/v1/store/backup",
            get(async |State(store): State<Store>| stream(move |out| query::backup(&store, out))),
        )
        .route(
            "/v1/store/export",
            get(async |State(store): State<Store>, Query(question)| {
                stream(move |out| query::export(&store, &question, out))
            }),
        )
        .with_state(Queried { store, facts });
    axum::serve(listener, app).await
}

/// Streams every change after a revision, one line of JSON each, for as long as the client reads.
fn watch(store: &Store, question: query::WatchQuery) -> Response {
    let after = question.after.unwrap_or_else(|| store.revision());
    let watch = match store.watch(after, None) {
        Ok(watch) => watch,
        Err(error) => {
            let error = query::QueryError::from(error);
            return (error.status(), axum::Json(query::Problem { error: error.to_string() })).into_response();
        }
    };
    let lines = futures::stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        let (lines, keep_going) = match watch.next().await {
            Ok(batch) => {
                (batch.changes.into_iter().map(Box::new).map(query::WatchLine::Change).collect(), Some(watch))
            }
            Err(error) => (vec![query::WatchLine::Error(query::message_of(&error))], None),
        };
        let text: String =
            lines.iter().filter_map(|line| serde_json::to_string(line).ok()).map(|l| l + "\n").collect();
        Some((Ok::<_, std::convert::Infallible>(text), keep_going))
    });
    Body::from_stream(lines).into_response()
}

/// Chunks of an answer that are buffered for a slow reader.
const ANSWER_CHUNKS_BUFFER: usize = 8;

/// Sends an answer while it is written. An error aborts the answer, so that no client takes it for complete.
fn stream<E: std::fmt::Display>(
    answer: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), E> + Send + 'static,
) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel(ANSWER_CHUNKS_BUFFER);
    tokio::task::spawn_blocking(move || {
        let mut out = std::io::BufWriter::with_capacity(64 << 10, Chunks(sender.clone()));
        // A panic must not end the answer cleanly either.
        let answer = std::panic::AssertUnwindSafe(|| answer(&mut out));
        let done = match std::panic::catch_unwind(answer) {
            Ok(done) => done.map_err(|error| std::io::Error::other(error.to_string())),
            Err(_) => Err(std::io::Error::other("the store could not be read")),
        };
        if let Err(error) = done.and_then(|()| out.flush()) {
            tracing::warn!(%error, "an answer was broken off");
            drop(sender.blocking_send(Err(error)));
        }
    });
    let chunks = futures::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    Body::from_stream(chunks).into_response()
}

struct Chunks(tokio::sync::mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let chunk = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(chunk).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn respond_to<T: serde::Serialize + Send + 'static>(
    store: Store,
    question: impl FnOnce(&Store) -> Result<T, query::QueryError> + Send + 'static,
) -> Response {
    match store.run_blocking(question).await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(error) => (error.status(), axum::Json(query::Problem { error: error.to_string() })).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for _ in 0..2 {
            // Also if a socket was left behind.
            let _listener = bind_socket(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
