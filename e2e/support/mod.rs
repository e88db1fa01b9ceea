//! Real parts for tests and the demo: a control plane, an AWS emulator, a proxy that plays faults, the
//! operator's own binary. Each is started by the test that needs it, on loopback and free ports, and
//! ends with it.
#![allow(dead_code)] // each test binary uses its own part of it

#[cfg(feature = "operator")]
pub mod aws;
pub mod cluster;
#[cfg(feature = "operator")]
pub mod desk;
pub mod kubectl;
#[cfg(feature = "operator")]
pub mod node;
#[cfg(feature = "operator")]
pub mod operator;
pub mod process;
#[cfg(feature = "operator")]
pub mod proxy;
#[cfg(feature = "operator")]
pub mod world;

use std::fmt::Debug;
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest that anything may take which happens at all: no measure of speed, and long enough for a machine that
/// is busy with other things.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// The folder with the tools, made by `e2e/tools/install.sh` when nobody names one.
pub fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        if let Some(tools) = std::env::var_os("ELAVA_TOOLS") {
            return tools.into();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/tools/install.sh");
        let done = Command::new(&script).stderr(std::process::Stdio::inherit()).output();
        let done = done.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        assert!(done.status.success(), "{} failed: see above", script.display());
        String::from_utf8_lossy(&done.stdout).trim().into()
    })
}

/// A port that is free now. Whoever takes it must cope with having lost it meanwhile.
/// What a variable of the environment sets; none where it sets no number.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Asks until it is so, or fails with what was seen last.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(last) if started.elapsed() > DEADLINE => {
                panic!("not within {} s: {what}; last seen: {last}", DEADLINE.as_secs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Holds all the time while `span` passes.
pub async fn holds_for<T: Debug, F>(what: &str, span: Duration, mut look: impl FnMut() -> F)
where
    F: Future<Output = Result<(), T>>,
{
    let started = Instant::now();
    while started.elapsed() < span {
        if let Err(seen) = look().await {
            panic!("{what} did not hold: {seen:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
