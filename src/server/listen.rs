//! Listeners that clients can't exhaust: a request head must arrive in time, and the number of connections is limited.
//! Beyond the limit the oldest connection is closed, so that an idle connection does not keep others out.

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::{AbortHandle, JoinSet};

/// Maximum time for a request head, and maximum time for which a connection is kept without one.
pub(super) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A limited number of tasks.
pub(super) struct Bounded {
    most: usize,
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Bounded {
    pub fn to(most: usize) -> Self {
        Self { most, tasks: JoinSet::new(), oldest_first: VecDeque::new() }
    }

    /// Starts a task. If there are too many, the oldest is aborted.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|task| !task.is_finished());
        while self.oldest_first.len() >= self.most {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            oldest.abort();
        }
        self.oldest_first.push_back(self.tasks.spawn(task));
    }
}

/// Serves until the task is dropped. Connections that `is_trusted` accepts are not limited: an authenticated client is
/// limited by what it may request.
pub(super) async fn serve<L>(
    head: Duration,
    mut listener: L,
    app: Router,
    most: usize,
    is_trusted: impl Fn(&L::Addr) -> bool + Send,
) -> std::io::Result<()>
where
    L: Listener,
    L::Addr: Clone + Send + Sync + 'static,
{
    let (mut strangers, mut trusted) = (Bounded::to(most), Bounded::to(usize::MAX));
    loop {
        let (io, from) = listener.accept().await;
        let connections = if is_trusted(&from) { &mut trusted } else { &mut strangers };
        let answers = TowerToHyperService::new(app.clone().layer(Extension(ConnectInfo(from))));
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            let connection = http.timer(TokioTimer::new()).header_read_timeout(head);
            if let Err(error) = connection.serve_connection(TokioIo::new(io), answers).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn started(head: Duration) -> std::net::SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/livez", get(async || "ok"));
        tokio::spawn(serve(head, listener, app, 4, |_| false));
        address
    }

    async fn requested(address: std::net::SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn requests_that_never_end_hold_no_place() {
        let address = started(Duration::from_hours(1)).await;
        let mut half_open = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").await.unwrap();
            half_open.push(stream);
        }
        let answer = requested(address).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        // The first of them was closed.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, half_open[0].read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is closed: {rest:?}");
    }

    #[tokio::test]
    async fn a_head_that_takes_too_long_ends_the_connection() {
        let address = started(Duration::from_millis(100)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is closed: {rest:?}");
        // Also a connection that is kept after an answer, without a further request.
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let ended = tokio::time::timeout(DEADLINE, kept.read_to_string(&mut answer)).await;
        assert!(ended.is_ok() && answer.ends_with("ok"), "{answer}");
    }
}
