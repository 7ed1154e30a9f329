//! A cluster of real processes for one scenario. Invariant: it ends only what it started, and it keeps
//! the directory with the logs when the scenario failed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::cli::launch::{Cluster, Ports, Spec, free_ports};

use crate::report::Report;
use crate::walls::Walls;
use crate::wires::{Peer, Wires};

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
    wires: Option<Wires>,
    walls: Option<Walls>,
}

impl Live {
    /// Starts `n` nodes and waits until all serve and every group has its voters.
    pub(crate) async fn start(n: usize, settings: &[String]) -> Result<Live> {
        Self::start_with(n, settings, Vec::new()).await
    }

    /// The same with arguments of each node.
    pub(crate) async fn start_with(
        n: usize,
        settings: &[String],
        arguments: Vec<Vec<String>>,
    ) -> Result<Live> {
        let directory = fresh_directory();
        let cluster = Cluster::open(spec(&directory, free_ports(n)?, settings, arguments)?)?;
        let mut live = Live { cluster, directory, wires: None, walls: None };
        live.form().await?;
        Ok(live)
    }

    /// The same with wires between the nodes that can be cut.
    pub(crate) async fn start_wired(n: usize) -> Result<Live> {
        // A wire leads to the id of a node, and the nodes have ids only once they have joined.
        let Live { cluster, directory, .. } = Live::start(n, &[]).await?;
        cluster.stop_all().await?;
        let ports: Vec<Ports> = cluster.state().nodes.iter().map(|node| node.ports).collect();
        let peer = |(i, ports): (usize, &Ports)| Peer { id: cluster.name(i), port: ports.peer };
        let peers: Vec<Peer> = ports.iter().enumerate().map(peer).collect();
        drop(cluster);
        let wires = Wires::lay(&peers).await?;
        let arguments = (0..n).map(|i| wires.arguments(i)).collect();
        let cluster = Cluster::open(spec(&directory, ports, &[], arguments)?)?;
        let mut live = Live { cluster, directory, wires: Some(wires), walls: None };
        live.form().await?;
        Ok(live)
    }

    /// The same with a wall clock for each node that can be set.
    pub(crate) async fn start_walled(n: usize, library: PathBuf) -> Result<Live> {
        let directory = fresh_directory();
        let mut cluster = Cluster::open(spec(&directory, free_ports(n)?, &[], Vec::new())?)?;
        let walls = Walls::hang(library, &directory, n)?;
        (0..n).for_each(|i| cluster.set_variables(i, walls.variables(i)));
        let mut live = Live { cluster, directory, wires: None, walls: Some(walls) };
        live.form().await?;
        Ok(live)
    }

    async fn form(&mut self) -> Result<()> {
        self.cluster.form().await?;
        self.cluster.ensure_tenant("chaos").await?;
        Ok(())
    }

    /// The wires of a cluster that was started with them.
    pub(crate) fn wires(&self) -> Result<&Wires> {
        self.wires.as_ref().context("the cluster has no wires")
    }

    /// The clocks of a cluster that was started with them.
    pub(crate) fn walls(&self) -> Result<&Walls> {
        self.walls.as_ref().context("the cluster has no walls")
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
        let Live { cluster, directory, .. } = self;
        drop(cluster);
        if done.is_ok() && !keep {
            std::fs::remove_dir_all(&directory)?;
        } else {
            report.summary(&format!("logs are kept in {}", directory.display()));
        }
        done
    }
}

fn fresh_directory() -> PathBuf {
    std::env::temp_dir().join(format!("skep-chaos-{}", client::fresh_key()))
}

fn spec(
    directory: &Path,
    ports: Vec<Ports>,
    settings: &[String],
    arguments: Vec<Vec<String>>,
) -> Result<Spec> {
    Ok(Spec {
        binary: binary()?,
        directory: directory.to_owned(),
        ports,
        settings: settings.to_vec(),
        arguments,
        own_groups: false,
        outlive: false,
    })
}

/// The `skep` binary: `SKEP_BIN`, or the one beside this program.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return std::path::absolute(&path).context("SKEP_BIN");
    }
    let beside = std::env::current_exe()?.with_file_name("skep");
    ensure!(beside.exists(), "{} is missing: cargo build -p node", beside.display());
    Ok(beside)
}
