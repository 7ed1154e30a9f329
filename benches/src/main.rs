//! Measures skep beside what one would use instead: ratios first, CPU second, rates last, because a
//! ratio of rounds in turn survives a busy machine. Everything runs on loopback, for a bounded time,
//! and ends only processes that it started.

mod answer;
mod bare;
mod cache;
mod checkpoints;
mod cpu;
mod etcd;
mod figures;
mod growth;
mod http;
mod limits;
mod load;
mod models;
mod pace;
mod proposals;
mod replicas;
mod sample;
mod scale;
mod skep;
mod table;
mod wal;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use node::cli::signals::stop_requested;

use table::line;

/// As in the node: parts of it are measured in this process.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

/// Measure skep beside etcd, bare axum and the bare disk
#[derive(Debug, Parser)]
#[command(name = "benches", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replicated writes: skep's Raft, skep over HTTP, etcd; three processes each
    Proposals(proposals::Plan),
    /// The warm front door: GET /v1/me beside bare axum
    Http(http::Plan),
    /// The warm limit check beside bare axum, and what a client waits at half load
    Limits(limits::Plan),
    /// Documents that were scored before: in scans, in jobs, and to other tenants
    Cache(cache::Plan),
    /// What many tenants and keys cost: making, memory, decisions, restarts
    Scale(scale::Plan),
    /// The state of one group on disk: all of it, what changed, and a start
    Checkpoints(checkpoints::Plan),
    /// What added nodes are worth: jobs on one, two, three and five
    Growth(growth::Plan),
    /// Jobs by models beside a bare loop of onnxruntime in Python
    Models(models::Plan),
    /// The write-ahead log alone beside write + fdatasync
    Wal(wal::Plan),
    /// All of them but `cache`, `scale`, `checkpoints`, `growth` and `models`, with their defaults
    All,
    /// One process of `proposals`
    #[command(hide = true)]
    RaftNode(replicas::process::Arguments),
    /// The peer of `http`
    #[command(hide = true)]
    BareAxum(bare::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let told = tokio::select! {
        told = run(Arguments::parse().command) => told,
        // The processes that were started end as this goes.
        signal = stop_requested() => match signal {
            Ok(signal) => Err(anyhow!("ended by {signal}")),
            Err(error) => Err(error.into()),
        },
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            line(&format!("FAILED: {error:#}"));
            // The runtime would wait for threads that are still measuring.
            std::process::exit(1)
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Proposals(plan) => proposals::run(&plan).await,
        Command::Http(plan) => http::run(&plan).await,
        Command::Limits(plan) => limits::run(&plan).await,
        Command::Cache(plan) => cache::run(&plan).await,
        Command::Scale(plan) => scale::run(&plan).await,
        Command::Growth(plan) => growth::run(&plan).await,
        Command::Models(plan) => models::run(&plan).await,
        Command::Checkpoints(plan) => {
            tokio::task::spawn_blocking(move || checkpoints::run(&plan)).await?
        }
        Command::Wal(plan) => wal::run(&plan).await,
        Command::All => all().await,
        Command::RaftNode(arguments) => replicas::process::run(arguments).await,
        Command::BareAxum(arguments) => bare::serve(arguments).await,
    }
}

async fn all() -> Result<()> {
    wal::run(&wal::Plan::default()).await?;
    proposals::run(&proposals::Plan::default()).await?;
    http::run(&http::Plan::default()).await?;
    limits::run(&limits::Plan::default()).await
}
