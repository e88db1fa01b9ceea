//! Real components for tests and the demo: a control plane, an AWS emulator, a proxy that injects faults, and the
//! operator's own binary. Each is started by the test that needs it, on loopback and free ports, and ends with it.
#![allow(dead_code)] // each test binary uses only a part of it

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

/// The maximum wait for anything that must happen: not a measure of speed, and long enough for a busy machine.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// The folder with the tools; `e2e/tools/install.sh` creates it if `ELAVA_TOOLS` is not set.
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

/// The number in an environment variable; None if it is not set to a number.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// A port that is free now. It may be taken before the caller binds it.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Polls until the check succeeds; panics with its last error after [`DEADLINE`].
pub async fn eventually<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match check().await {
            Ok(seen) => return seen,
            Err(last) if started.elapsed() > DEADLINE => {
                panic!("not within {} s: {what}; last seen: {last}", DEADLINE.as_secs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Checks repeatedly that a condition holds for the whole `span`.
pub async fn holds_for<T: Debug, F>(what: &str, span: Duration, mut check: impl FnMut() -> F)
where
    F: Future<Output = Result<(), T>>,
{
    let started = Instant::now();
    while started.elapsed() < span {
        if let Err(seen) = check().await {
            panic!("{what} did not hold: {seen:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
