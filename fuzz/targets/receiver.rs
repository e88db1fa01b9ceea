//! Arbitrary bytes as the response of a webhook receiver.
#![no_main]

use std::sync::LazyLock;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "../../src/controller/post.rs"]
mod post;

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts"));

fuzz_target!(|answer: Vec<u8>| {
    RUNTIME.block_on(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let url = format!("http://{}/hook", listener.local_addr().expect("it is bound"));
        let receiver = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
        let connector = hyper_util::client::legacy::connect::HttpConnector::new();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        let request = hyper::Request::post(&url).body(Full::new(Bytes::from_static(b"{}"))).expect("it is a request");
        let _ = post::post(&http, request).await;
        receiver.abort();
    });
});
