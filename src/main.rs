//! The binary. For an overview, see the crate's documentation.

use std::process::ExitCode;

/// A scan allocates and frees about a hundred small objects per resource, on all threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    elava::cli::main().await
}
