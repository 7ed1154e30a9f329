//! Three real `skep` processes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use client::cluster::ClusterView;
use client::tenants::{NewTenant, Overrides, unlimited};
use client::{Client, Credential};
use node::cli::launch::{Cluster, Spec, free_ports};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::table::line;

const NODES: usize = 3;
const SHARDS: usize = 16;
const SPREAD_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
/// Tenants until one is led where it should be; each fails with a chance of 2 in 3 at most.
const TENANTS_MAX: usize = 64;
/// What nobody here reaches in a second, a minute or a day.
const VAST: u64 = 1_000_000_000;

/// A cluster in a temporary directory.
#[derive(Debug)]
pub(crate) struct Skep {
    cluster: Cluster,
    directory: TempDir,
    /// Nodes whose processes are stopped.
    asleep: BTreeSet<usize>,
}

/// What limits a tenant has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    /// None: nothing is counted.
    None,
    /// One of every kind that counts requests, none of which is ever met: every request is taken
    /// out of a slab.
    Vast,
}

impl Limits {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Limits::None => "no limits",
            Limits::Vast => "with limits",
        }
    }

    pub(crate) fn overrides(self) -> Overrides {
        let mut overrides = unlimited();
        if self == Limits::Vast {
            let counted = ["rate", "burst", "key_rate", "key_burst", "per_minute", "per_day"];
            overrides.extend(counted.map(|name| (name.to_owned(), Some(VAST))));
        }
        overrides
    }
}

/// A tenant of a bench.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) key: String,
    pub(crate) shard: String,
    /// The node that led its shard when it was made.
    pub(crate) leader: usize,
}

impl Skep {
    /// Starts the nodes and waits until each leads its share.
    pub(crate) async fn start() -> Result<Skep> {
        Self::start_with(NODES, &[]).await
    }

    /// The same with another number of nodes, and settings.
    pub(crate) async fn start_with(nodes: usize, settings: &[String]) -> Result<Skep> {
        let directory = tempfile::Builder::new().prefix("skep-bench-").tempdir()?;
        let cluster = Cluster::open(Spec {
            binary: binary()?,
            directory: directory.path().to_owned(),
            ports: free_ports(nodes)?,
            settings: settings.to_vec(),
            arguments: Vec::new(),
            own_groups: false,
            outlive: false,
        })?;
        let mut skep = Skep { cluster, directory, asleep: BTreeSet::new() };
        skep.cluster.form().await?;
        skep.wait_spread().await?;
        Ok(skep)
    }

    /// Of the processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.alive().into_iter().filter_map(|i| self.cluster.pid(i)).collect()
    }

    pub(crate) fn nodes(&self) -> usize {
        self.cluster.len()
    }

    /// The nodes whose processes run.
    pub(crate) fn alive(&self) -> Vec<usize> {
        let runs = |i: &usize| self.cluster.is_alive(*i) && !self.asleep.contains(i);
        (0..self.cluster.len()).filter(runs).collect()
    }

    /// Stops a node's process, so that nothing comes from it and nothing is said of it.
    pub(crate) fn put_to_sleep(&mut self, i: usize) -> Result<()> {
        self.signal(i, Signal::STOP)?;
        self.asleep.insert(i);
        Ok(())
    }

    /// Lets it go on where it was.
    pub(crate) fn wake(&mut self, i: usize) -> Result<()> {
        self.signal(i, Signal::CONT)?;
        self.asleep.remove(&i);
        Ok(())
    }

    fn signal(&self, i: usize, signal: Signal) -> Result<()> {
        let pid = self.cluster.pid(i).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok(kill_process(pid.context("the node has no process")?, signal)?)
    }

    pub(crate) fn admin_key(&self) -> Result<String> {
        self.cluster.state().admin_key.clone().context("the cluster has no operator")
    }

    /// Kills a node and waits until it is gone.
    pub(crate) async fn kill(&self, i: usize) -> Result<()> {
        Ok(self.cluster.kill(i).await?)
    }

    /// Kills all nodes at once.
    pub(crate) async fn kill_all(&self) -> Result<()> {
        Ok(self.cluster.kill_all().await?)
    }

    /// Starts a node again with the command that it had.
    pub(crate) fn start_again(&mut self, i: usize) -> Result<()> {
        Ok(self.cluster.start(i)?)
    }

    /// Waits until a node says that it is ready.
    pub(crate) async fn wait_ready(&self, i: usize, within: Duration) -> Result<()> {
        Ok(self.cluster.wait_ready(i, within).await?)
    }

    /// Bytes of a node's log, of which whole segments are prepared ahead.
    pub(crate) fn log_bytes(&self, i: usize) -> Result<u64> {
        let segments = std::fs::read_dir(self.cluster.data(i).join("wal"))?;
        let lengths = segments.map(|segment| Ok(segment?.metadata()?.len()));
        lengths.sum()
    }

    /// Where the nodes are.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.cluster.urls()
    }

    /// `host:port` of node `i`.
    pub(crate) fn address(&self, i: usize) -> String {
        self.cluster.url(i).replace("http://", "")
    }

    /// The metrics of each node.
    pub(crate) async fn metrics(&self) -> Result<Vec<String>> {
        let mut pages = Vec::new();
        for i in 0..self.nodes() {
            pages.push(self.metrics_of(i).await?);
        }
        Ok(pages)
    }

    /// The metrics of a node.
    pub(crate) async fn metrics_of(&self, i: usize) -> Result<String> {
        Ok(self.cluster.admin_of(i)?.metrics().await?.body)
    }

    /// Makes a tenant.
    pub(crate) async fn tenant(&self, name: &str, limits: Limits) -> Result<Tenant> {
        let tenant = NewTenant {
            name: name.to_owned(),
            plan: Some("enterprise".to_owned()),
            overrides: Some(limits.overrides()),
        };
        let admin = self.cluster.admin()?;
        let made = admin.create_tenant(&tenant, &client::fresh_key()).await?.body;
        let key = made.api_key.context("the new tenant has no key")?;
        let me = Client::new(self.cluster.urls(), Credential::key(&key))?.me().await?.body;
        let shard = me.tenant["shard"].to_string();
        let leader = self.leader(&shard).await?;
        Ok(Tenant { key, shard, leader })
    }

    /// Makes tenants until one's shard is led by a node that fits.
    pub(crate) async fn tenant_led(
        &self,
        limits: Limits,
        fits: impl Fn(usize) -> bool,
    ) -> Result<Tenant> {
        for i in 0..TENANTS_MAX {
            let tenant = self.tenant(&format!("bench {i}"), limits).await?;
            if fits(tenant.leader) {
                return Ok(tenant);
            }
        }
        bail!("no tenant of {TENANTS_MAX} is led where it should be")
    }

    /// Says so when a tenant's shard is led by another node than when it was made.
    pub(crate) async fn warn_if_moved(&self, tenant: &Tenant) -> Result<()> {
        if self.leader(&tenant.shard).await? != tenant.leader {
            line(&format!("WARNING: shard {} changed its leader meanwhile", tenant.shard));
        }
        Ok(())
    }

    /// The node that leads a shard.
    pub(crate) async fn leader(&self, shard: &str) -> Result<usize> {
        let view = self.view().await?;
        let shard = view.shards.iter().find(|seen| seen.id == shard).context("no such shard")?;
        let leader = shard.leader.as_deref().context("the shard has no leader")?;
        self.cluster.index_of(leader).context("an unknown node leads")
    }

    async fn view(&self) -> Result<ClusterView> {
        Ok(self.cluster.admin()?.cluster().await?.body)
    }

    /// Waits until a node that runs leads each shard.
    pub(crate) async fn wait_led(&self) -> Result<()> {
        let alive: Vec<String> = self.alive().into_iter().map(|i| self.cluster.name(i)).collect();
        let deadline = Instant::now() + SPREAD_WITHIN;
        loop {
            let view = self.view().await?;
            let led = |leader: Option<&str>| alive.iter().any(|name| Some(name.as_str()) == leader);
            if view.shards.iter().all(|shard| led(shard.leader.as_deref())) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "a shard has no leader in {SPREAD_WITHIN:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until each node leads its share.
    pub(crate) async fn wait_spread(&self) -> Result<()> {
        let deadline = Instant::now() + SPREAD_WITHIN;
        loop {
            let view = self.view().await?;
            let led = |id: &str| {
                let led = |leader: Option<&str>| leader == Some(id);
                let shards = view.shards.iter().filter(|shard| shard.id != "0");
                shards.filter(|shard| led(shard.leader.as_deref())).count()
            };
            let least = SHARDS / self.nodes();
            if view.nodes.iter().filter(|node| led(&node.id) >= least).count() == self.nodes() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "leadership is not spread in {SPREAD_WITHIN:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.cluster.kill_all().await?;
        drop(self.cluster);
        Ok(self.directory.close()?)
    }
}

/// `SKEP_BIN`, or the `skep` beside this program.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return std::path::absolute(path).context("SKEP_BIN");
    }
    let binary = std::env::current_exe()?.with_file_name("skep");
    ensure!(
        binary.is_file(),
        "{} is missing: cargo build --release -p node, or set SKEP_BIN",
        binary.display()
    );
    Ok(binary)
}
