//! A cluster of real processes for one scenario. Invariant: it ends only what it started, and it keeps
//! the directory with the logs when the scenario failed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::cli::launch::{Cluster, Spec, free_ports};

use crate::report::Report;

/// How long a node may take until it serves after a start.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long replicas may take until they give a digest.
const DIGESTS_WITHIN: Duration = Duration::from_secs(30);
/// The meta group and the shards.
const GROUPS: usize = 17;

/// The running cluster.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) cluster: Cluster,
    directory: PathBuf,
}

impl Live {
    /// Starts `n` nodes and waits until all serve and every group has its voters.
    pub(crate) async fn start(n: usize, settings: &[String]) -> Result<Live> {
        let name = format!("skep-chaos-{}", client::fresh_key());
        let directory = std::env::temp_dir().join(name);
        let cluster = Cluster::open(Spec {
            binary: binary()?,
            directory: directory.clone(),
            ports: free_ports(n)?,
            settings: settings.to_vec(),
            arguments: Vec::new(),
            own_groups: false,
            outlive: false,
        })?;
        let mut live = Live { cluster, directory };
        live.cluster.form().await?;
        live.cluster.ensure_tenant("chaos").await?;
        Ok(live)
    }

    /// Where the cluster lives.
    pub(crate) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Starts all dead nodes and waits until the cluster is whole.
    pub(crate) async fn restart_all(&mut self) -> Result<()> {
        let dead: Vec<_> = (0..self.cluster.len()).filter(|i| !self.cluster.is_alive(*i)).collect();
        for i in dead {
            self.cluster.start(i)?;
        }
        Ok(self.cluster.wait_formed(READY_WITHIN).await?)
    }

    /// The state of every group is the same on all its replicas.
    pub(crate) async fn ensure_equal(&self) -> Result<()> {
        let groups = self.cluster.digests(DIGESTS_WITHIN).await?.len();
        ensure!(groups == GROUPS, "digests of {groups} groups, not of {GROUPS}");
        Ok(())
    }

    /// Every node runs: none has ended by itself.
    pub(crate) fn ensure_alive(&self) -> Result<()> {
        for i in 0..self.cluster.len() {
            let words = self.cluster.last_words(i);
            ensure!(self.cluster.is_alive(i), "node {i} ended by itself: {words}");
        }
        Ok(())
    }

    /// Ends the nodes; removes the directory if all held.
    pub(crate) async fn end(self, done: Result<()>, keep: bool, report: Report) -> Result<()> {
        self.cluster.kill_all().await?;
        let Live { cluster, directory } = self;
        drop(cluster);
        if done.is_ok() && !keep {
            std::fs::remove_dir_all(&directory)?;
        } else {
            report.summary(&format!("logs are kept in {}", directory.display()));
        }
        done
    }
}

/// The `skep` binary: `SKEP_BIN`, or the one beside this program.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return std::path::absolute(&path).context("SKEP_BIN");
    }
    let beside = std::env::current_exe()?.with_file_name("skep");
    ensure!(beside.exists(), "{} is missing: cargo build -p node", beside.display());
    Ok(beside)
}
