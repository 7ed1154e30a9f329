//! The `skep` binary.

use std::process::ExitCode;

use clap::Parser as _;
use node::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Cli::parse()).await
}
