//! Why a local cluster did not come up, or did not do what was expected of it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use client::ClientError;

/// A launch that failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot start {}: {source}", binary.display())]
    Spawn { binary: PathBuf, source: io::Error },
    #[error("node {node} ended with {status}{}", said(.stderr))]
    Exited { node: usize, status: ExitStatus, stderr: String },
    #[error("{what} did not happen within {} s: {last}", within.as_secs_f32())]
    TimedOut { what: String, within: Duration, last: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Somebody else has the directory or the ports.
    #[error("refused: {0}")]
    Refused(String),
    #[error("shard {shard} differs between its replicas at {applied}: {digests}")]
    Diverged { shard: String, applied: u64, digests: String },
}

impl LaunchError {
    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        LaunchError::File { what, path: path.into(), source }
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}
