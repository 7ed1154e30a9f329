//! Three real `skep` processes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::cluster::ClusterView;
use client::tenants::{NewTenant, unlimited};
use client::{Client, Credential};
use node::cli::launch::{Cluster, Spec, free_ports};
use tempfile::TempDir;
use tokio::time::Instant;

const NODES: usize = 3;
/// Shards that every node leads once leadership is spread evenly: 16 over 3.
const LED_MIN: usize = 5;
const SPREAD_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// A cluster in a temporary directory.
#[derive(Debug)]
pub(crate) struct Skep {
    cluster: Cluster,
    directory: TempDir,
}

/// A tenant without limits.
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
        let directory = tempfile::Builder::new().prefix("skep-bench-").tempdir()?;
        let cluster = Cluster::open(Spec {
            binary: binary()?,
            directory: directory.path().to_owned(),
            ports: free_ports(NODES)?,
            settings: Vec::new(),
            arguments: Vec::new(),
            own_groups: false,
            outlive: false,
        })?;
        let mut skep = Skep { cluster, directory };
        skep.cluster.form().await?;
        skep.wait_spread().await?;
        Ok(skep)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        (0..NODES).filter_map(|i| self.cluster.pid(i)).collect()
    }

    /// `host:port` of node `i`.
    pub(crate) fn address(&self, i: usize) -> String {
        self.cluster.url(i).replace("http://", "")
    }

    /// Makes a tenant without limits.
    pub(crate) async fn tenant(&self, name: &str) -> Result<Tenant> {
        let tenant = NewTenant {
            name: name.to_owned(),
            plan: Some("enterprise".to_owned()),
            overrides: Some(unlimited()),
        };
        let admin = self.cluster.admin()?;
        let made = admin.create_tenant(&tenant, &client::fresh_key()).await?.body;
        let key = made.api_key.context("the new tenant has no key")?;
        let me = Client::new(self.cluster.urls(), Credential::key(&key))?.me().await?.body;
        let shard = me.tenant["shard"].to_string();
        let leader = self.leader(&shard).await?;
        Ok(Tenant { key, shard, leader })
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

    async fn wait_spread(&self) -> Result<()> {
        let deadline = Instant::now() + SPREAD_WITHIN;
        loop {
            let view = self.view().await?;
            let led = |id: &str| {
                let led = |leader: Option<&str>| leader == Some(id);
                let shards = view.shards.iter().filter(|shard| shard.id != "0");
                shards.filter(|shard| led(shard.leader.as_deref())).count()
            };
            if view.nodes.iter().filter(|node| led(&node.id) >= LED_MIN).count() == NODES {
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
