//! The source of the answers: a store file in-process, the operator that holds it through its socket, or a cluster's
//! API server.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::{Cluster, ClusterArgs};
use crate::server::query::{Problem, QueryError};
use crate::store::{Store, StoreError, socket_path, system_clock};

#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The store's file; if an operator holds it, the operator is queried
    #[arg(long, env = "ELAVA_STORE", value_name = "FILE")]
    store: Option<PathBuf>,
    /// Query the operator at this socket
    #[arg(long, env = "ELAVA_SOCKET")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Used if nothing else is named.
const STORE: &str = "elava.redb";

enum Source {
    File(Store),
    Socket(PathBuf),
}

/// Whether this was called as `kubectl elava`.
pub(super) fn is_kubectl_plugin() -> bool {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|name| Path::new(name).file_name()).and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("kubectl-"))
}

impl SourceArgs {
    fn open(&self) -> anyhow::Result<Source> {
        if let Some(socket) = &self.socket {
            return Ok(Source::Socket(socket.clone()));
        }
        let path = self.store.clone().unwrap_or_else(|| STORE.into());
        match Store::open_existing(&path, system_clock()) {
            Ok(store) => Ok(Source::File(store)),
            Err(StoreError::Locked { .. }) if socket_path(&path).exists() => {
                Ok(Source::Socket(socket_path(&path)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the query goes to a cluster.
    fn targets_cluster(&self) -> bool {
        let ClusterArgs { namespace, all_namespaces, context } = &self.cluster;
        let is_named = namespace.is_some() || *all_namespaces || context.is_some();
        let is_local = self.store.is_some() || self.socket.is_some();
        is_named || (is_kubectl_plugin() && !is_local)
    }

    /// The cluster, if it is the source.
    pub async fn cluster(&self) -> anyhow::Result<Option<Cluster>> {
        if self.targets_cluster() { Cluster::connect(&self.cluster).await.map(Some) } else { Ok(None) }
    }

    /// For queries that only the operator itself, or a file, can answer.
    fn refuse_cluster(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.targets_cluster(),
            "the API server does not serve this query, the operator does: kubectl exec -n elava elava-0 -- elava ..."
        );
        Ok(())
    }

    /// The operator's socket, if it is the source.
    pub fn operator(&self) -> anyhow::Result<PathBuf> {
        match self.open()? {
            Source::Socket(socket) => Ok(socket),
            Source::File(_) => anyhow::bail!("no operator writes this store now: there is nothing to wait for"),
        }
    }

    pub async fn run_query<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
        in_process: impl FnOnce(&Store, &Q) -> Result<A, QueryError>,
    ) -> anyhow::Result<A> {
        self.refuse_cluster()?;
        match self.open()? {
            Source::File(store) => Ok(in_process(&store, question)?),
            Source::Socket(socket) => {
                let query = serde_urlencoded::to_string(question)?;
                query_socket(&socket, &format!("{path}?{query}"))
                    .await
                    .with_context(|| format!("asking the operator at {}", socket.display()))
            }
        }
    }

    /// Writes the answer as it arrives.
    pub async fn stream<Q: Serialize>(
        &self,
        path: &str,
        question: &Q,
        out: &mut (dyn Write + Send),
        in_process: impl FnOnce(&Store, &mut (dyn Write + Send)) -> Result<(), QueryError>,
    ) -> anyhow::Result<()> {
        self.refuse_cluster()?;
        match self.open()? {
            Source::File(store) => in_process(&store, out)?,
            Source::Socket(socket) => {
                let query = serde_urlencoded::to_string(question)?;
                let context = || format!("asking the operator at {}", socket.display());
                let answer = get_from_socket(&socket, &format!("{path}?{query}")).await.with_context(context)?;
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    let frame = frame.context("the operator ended its answer before it was whole")?;
                    if let Some(bytes) = frame.data_ref() {
                        out.write_all(bytes)?;
                    }
                }
            }
        }
        // When the process ends, write errors are not reported.
        Ok(out.flush()?)
    }
}

async fn query_socket<A: DeserializeOwned>(socket: &Path, path_and_query: &str) -> anyhow::Result<A> {
    let answer = get_from_socket(socket, path_and_query).await?;
    Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
}

/// An answer that is not an error.
pub(super) async fn get_from_socket(
    socket: &Path,
    path_and_query: &str,
) -> anyhow::Result<hyper::Response<hyper::body::Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        hyper::Request::get(path_and_query).header(hyper::header::HOST, "elava").body(Empty::<&[u8]>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.into_body().collect().await?.to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => anyhow::bail!("{}", problem.error),
        Err(_) => anyhow::bail!("{status}"),
    }
}
