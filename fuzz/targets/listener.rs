//! Arbitrary bytes, sent to the metrics endpoint by any client in the cluster network, and to the query socket by any
//! client with access to it.
#![no_main]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use elava::inventory::Facts;
use elava::server::metrics::Others;
use elava::store::{Store, system_clock};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

struct Served {
    runtime: tokio::runtime::Runtime,
    http: SocketAddr,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("it starts");
    let dir = tempfile::tempdir_in("/dev/shm").expect("there is memory");
    let store = Store::open(&dir.path().join("elava.redb"), system_clock()).expect("it is made");
    let socket = dir.path().join("socket");
    let http = runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let http = listener.local_addr().expect("it is bound");
        let others = Others { accounts: Box::new(Vec::new), register: Box::new(|_| {}) };
        tokio::spawn(elava::server::serve_http(listener, store.clone(), others));
        let unix = elava::server::bind_socket(&socket).expect("it is made");
        tokio::spawn(elava::server::serve_socket(unix, store, Facts::default()));
        http
    });
    Served { runtime, http, socket, _dir: dir }
});

async fn query(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) {
    let _ = stream.write_all(request).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fuzz_target!(|data: &[u8]| {
    let Some((which, request)) = data.split_first() else { return };
    let served = &*SERVED;
    served.runtime.block_on(async {
        if which % 2 == 0 {
            query(TcpStream::connect(served.http).await.expect("it listens"), request).await;
            // The server still answers.
            let mut answer = Vec::new();
            let mut stream = TcpStream::connect(served.http).await.expect("it listens");
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.starts_with(b"HTTP/1.1 200"), "it does not live: {}", String::from_utf8_lossy(&answer));
        } else {
            query(UnixStream::connect(&served.socket).await.expect("it listens"), request).await;
        }
    });
});
