//! The binary: see the crate's documentation for the map.

use std::process::ExitCode;

/// A scan makes and drops a hundred small pieces for each resource, on all threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    elava::cli::main().await
}
