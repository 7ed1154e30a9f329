//! Who may speak on the peer port, from outside: strangers, forgers, copies, tokens, and what time
//! does to certificates.

mod copies;
mod outsider;
mod renewal;
mod strangers;
mod tokens;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Ports, free_ports};
use tokio::process::{Child, Command};

/// A refusal to start is told within this.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);

/// How a process ended, with the last line of its stderr.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    line: String,
    took: Duration,
}

impl Ended {
    /// Fails unless it was a refusal of that kind, in time and in one clear line.
    fn is_refusal(&self, code: i32, words: &str) -> Result<()> {
        ensure!(self.code == Some(code), "exit code {code} expected: {self:?}");
        ensure!(self.line.starts_with("skep: refused: "), "{self:?}");
        ensure!(self.line.contains(words), "{words:?} expected: {self:?}");
        ensure!(self.took <= REFUSED_WITHIN, "{self:?}");
        Ok(())
    }
}

/// A node of its own, beside those of the launcher.
fn spawn(data: &Path, ports: Ports, more: &[&str]) -> Result<Child> {
    let mut command = Command::new(tests::binary()?);
    command.arg("serve").arg("--data").arg(data);
    command.args(["--http", &format!("127.0.0.1:{}", ports.http)]);
    command.args(["--peer", &format!("127.0.0.1:{}", ports.peer)]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("skep serve")
}

/// Runs a node that is expected to end by itself.
async fn run(data: &Path, more: &[&str]) -> Result<Ended> {
    let ports = free_ports(1)?[0];
    let begun = Instant::now();
    let child = spawn(data, ports, more)?;
    ended(child, begun).await
}

async fn ended(child: Child, begun: Instant) -> Result<Ended> {
    let output = tokio::time::timeout(Duration::from_secs(40), child.wait_with_output());
    let output = output.await.context("the node goes on")??;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let refusal = text.lines().find(|line| line.starts_with("skep: "));
    let line = refusal.unwrap_or(&text).to_owned();
    Ok(Ended { code: output.status.code(), line, took: begun.elapsed() })
}

/// The ids of the cluster, for those who must name it.
async fn cluster_id(cluster: &Cluster) -> Result<String> {
    Ok(cluster.admin(0)?.cluster().await?.body.cluster_id)
}

/// The peer address of node `i`.
fn peer(cluster: &mut Cluster, i: usize) -> String {
    format!("127.0.0.1:{}", cluster.launcher().state().nodes[i].ports.peer)
}

/// Copies a directory as an operator would, with the node running or not.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
