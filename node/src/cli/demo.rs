//! `skep demo`: scripted proofs on a throw-away cluster of three real processes. Each step prints a
//! figure and asserts; the first that fails ends the run.

pub mod corpus;

mod acts;
mod endings;
mod failover;
mod story;
mod tour;

use std::io;
use std::path::PathBuf;

use super::failure::{Exit, Failure};
use super::launch::{Cluster, Spec, free_ports};
use super::output::Output;
use super::signals::stop_requested;

use acts::Stage;
use story::Story;

const NODES: usize = 3;
// With 3 nodes this holds a job of 1,000 documents for about 7 s on any machine, long enough to
// kill its owner in the middle.
const SLOTS: u32 = 2;
const DELAY_MS: u32 = 40;

#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum Command {
    /// The whole story: tenant, scans, a job, the death of its owner, restarts
    Tour,
    /// The short form: kill the owner of a job and prove that nothing is lost or billed twice
    Failover,
}

pub(super) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    let directory = directory();
    let mut stage = Stage::new(Cluster::open(spec(directory.clone())?)?);
    let mut story = Story::new(output);
    let done = tokio::select! {
        done = tell(command, &mut story, &mut stage) => done,
        signal = stop_requested() => Err(stopped(signal)),
    };
    stage.cluster.kill_all().await?;
    match done {
        Ok(()) => {
            story.close()?;
            Ok(std::fs::remove_dir_all(&directory)?)
        }
        Err(failure) => {
            output.note(&format!("logs are kept in {}", directory.display()));
            Err(failure)
        }
    }
}

async fn tell(command: Command, story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    match command {
        Command::Tour => tour::tell(story, stage).await,
        Command::Failover => failover::tell(story, stage).await,
    }
}

fn stopped(signal: io::Result<&'static str>) -> Failure {
    match signal {
        Ok(signal) => Failure::new(Exit::Failed, format!("stopped by {signal}")),
        Err(error) => error.into(),
    }
}

fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("skep-demo-{}", client::fresh_key()))
}

fn spec(directory: PathBuf) -> Result<Spec, Failure> {
    Ok(Spec {
        binary: std::env::current_exe()?,
        directory,
        ports: free_ports(NODES)?,
        settings: vec![
            format!("inference.slots={SLOTS}"),
            format!("inference.delay_ms={DELAY_MS}"),
        ],
        arguments: Vec::new(),
        own_groups: true,
        outlive: false,
    })
}
