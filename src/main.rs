//! The binary: see the crate's documentation for the map.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    elava::cli::main().await
}
