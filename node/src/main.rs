//! The `skep` binary.

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use node::cli::{self, Cli};

/// Keeps objects of one size side by side: what many tenants use at once is on fewer pages. See decision 27.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Cli::parse()).await
}
