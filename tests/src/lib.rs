//! A cluster of real `skep` processes for the tests: started in a temporary directory on free ports,
//! killed when it is dropped. Where a test fails, the directory with the logs is kept.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use client::{Client, Credential};
use node::cli::launch::{self, Digests, Spec, State};

pub mod events;
pub mod machine;
pub mod raw;

pub use node::cli::demo::corpus;
pub use node::cli::launch::{Ports, Probe, TenantKey, free_ports, until};

/// How long a node may take until it serves after a start.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long replicas may take until they give a digest.
pub const DIGESTS_WITHIN: Duration = Duration::from_secs(30);

/// What is special about a cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `key=value`, given to every node as `--set`.
    pub settings: Vec<String>,
    /// Further arguments of node `i`, such as `--peer-dial`.
    pub arguments: Vec<Vec<String>>,
    /// Chosen ports, where something must know them before the start (a proxy between nodes).
    pub ports: Option<Vec<Ports>>,
    /// Another binary than that of this build.
    pub binary: Option<PathBuf>,
}

impl Options {
    /// One more setting, such as `inference.delay_ms=20`.
    pub fn set(mut self, setting: &str) -> Options {
        self.settings.push(setting.to_owned());
        self
    }
}

/// A running cluster with an operator's key and a tenant without limits.
#[derive(Debug)]
pub struct Cluster {
    inner: launch::Cluster,
    directory: Option<tempfile::TempDir>,
}

impl Cluster {
    /// Starts `n` nodes and waits until all serve and every group has its voters.
    pub async fn start(n: usize, options: Options) -> Result<Cluster> {
        let directory = tempfile::Builder::new().prefix("skep-test-").tempdir()?;
        let ports = options.ports.map_or_else(|| free_ports(n), Ok)?;
        ensure!(ports.len() == n, "{n} nodes need {n} pairs of ports");
        let inner = launch::Cluster::open(Spec {
            binary: options.binary.map_or_else(binary, Ok)?,
            directory: directory.path().to_owned(),
            ports,
            settings: options.settings,
            arguments: options.arguments,
            // In the test's own group, so that a test runner's kill takes the nodes with it.
            own_groups: false,
            outlive: false,
        })?;
        let mut cluster = Cluster { inner, directory: Some(directory) };
        cluster.inner.form().await?;
        cluster.inner.ensure_tenant("test").await?;
        Ok(cluster)
    }

    /// A cluster of one node whose data directory is in `home/node-0/data` already, with the keys of
    /// the cluster that the data come from.
    pub async fn revive(
        home: tempfile::TempDir,
        admin_key: &str,
        tenant: &TenantKey,
        options: Options,
    ) -> Result<Cluster> {
        let ports = free_ports(1)?;
        let (admin_key, tenant) = (Some(admin_key.to_owned()), Some(tenant.clone()));
        let state = State { cluster_id: None, admin_key, tenant, nodes: Vec::new() };
        launch::write_private(&home.path().join("dev.keys"), &state)?;
        let inner = launch::Cluster::open(Spec {
            binary: binary()?,
            directory: home.path().to_owned(),
            ports,
            settings: options.settings,
            arguments: options.arguments,
            own_groups: false,
            outlive: false,
        })?;
        let mut cluster = Cluster { inner, directory: Some(home) };
        cluster.inner.form().await?;
        Ok(cluster)
    }

    /// The launcher beneath, for what is not offered here.
    pub fn launcher(&mut self) -> &mut launch::Cluster {
        &mut self.inner
    }

    pub fn len(&self) -> usize {
        self.inner.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// A client of node `i` alone with the tenant's key.
    pub fn client(&self, i: usize) -> Result<Client> {
        Ok(self.inner.tenant_of(i)?)
    }

    /// A client of all nodes with the tenant's key.
    pub fn clients(&self) -> Result<Client> {
        Ok(self.inner.tenant(0)?)
    }

    /// A client of node `i` alone with the operator's key.
    pub fn admin(&self, i: usize) -> Result<Client> {
        Ok(self.inner.admin_of(i)?)
    }

    /// A client of all nodes with the operator's key.
    pub fn admins(&self) -> Result<Client> {
        Ok(self.inner.admin()?)
    }

    /// The base URL of node `i`, for requests that no client would send.
    pub fn url(&self, i: usize) -> String {
        self.inner.url(i)
    }

    /// The operator's key.
    pub fn admin_key(&self) -> Result<&str> {
        self.inner.state().admin_key.as_deref().context("the cluster has no operator's key")
    }

    /// The tenant and its key.
    pub fn tenant(&self) -> Result<&TenantKey> {
        self.inner.state().tenant.as_ref().context("the cluster has no tenant")
    }

    /// A client of node `i` alone with some key.
    pub fn client_of(&self, i: usize, key: &str) -> Result<Client> {
        Ok(Client::new(vec![self.url(i)], Credential::key(key))?)
    }

    /// A client of all nodes with some key.
    pub fn clients_of(&self, key: &str) -> Result<Client> {
        Ok(Client::new(self.inner.urls(), Credential::key(key))?)
    }

    pub fn data(&self, i: usize) -> PathBuf {
        self.inner.data(i)
    }

    pub fn pid(&self, i: usize) -> Option<u32> {
        self.inner.pid(i)
    }

    /// The node whose id in the cluster is `id`.
    pub fn index_of(&self, id: &str) -> Option<usize> {
        self.inner.index_of(id)
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&self, i: usize) -> Result<()> {
        Ok(self.inner.kill(i).await?)
    }

    /// SIGKILL to all nodes at once.
    pub async fn kill_all(&self) -> Result<()> {
        Ok(self.inner.kill_all().await?)
    }

    /// SIGTERM; gives how the process ended.
    pub async fn stop(&self, i: usize) -> Result<Option<ExitStatus>> {
        Ok(self.inner.stop(i).await?)
    }

    /// SIGTERM to all nodes at once.
    pub async fn stop_all(&self) -> Result<()> {
        Ok(self.inner.stop_all().await?)
    }

    /// Starts a dead node and waits until it serves.
    pub async fn restart(&mut self, i: usize) -> Result<()> {
        self.inner.start(i)?;
        self.wait_ready(i).await
    }

    /// Starts all dead nodes and waits until the cluster is whole.
    pub async fn restart_all(&mut self) -> Result<()> {
        for i in (0..self.len()).filter(|i| !self.inner.is_alive(*i)).collect::<Vec<_>>() {
            self.inner.start(i)?;
        }
        self.wait_whole().await
    }

    /// Waits until node `i` serves.
    pub async fn wait_ready(&self, i: usize) -> Result<()> {
        Ok(self.inner.wait_ready(i, READY_WITHIN).await?)
    }

    /// Waits until every node serves and every group has its voters.
    pub async fn wait_whole(&self) -> Result<()> {
        Ok(self.inner.wait_formed(READY_WITHIN).await?)
    }

    /// The digest of every shard, equal on all its live replicas; otherwise an error.
    pub async fn digests(&self) -> Result<Digests> {
        Ok(self.inner.digests(DIGESTS_WITHIN).await?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            let kept = directory.keep();
            #[expect(clippy::print_stderr, reason = "a failed test must say where its logs are")]
            {
                eprintln!("the logs of the cluster are kept in {}", kept.display());
            }
        }
    }
}

/// The `skep` binary: `SKEP_BIN`, or the one beside this test, built now if it is missing or older.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find_binary().map_err(|error| format!("{error:#}")));
    found.clone().map_err(anyhow::Error::msg)
}

fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return std::path::absolute(&path).context("SKEP_BIN");
    }
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/test-HASH
    let profile =
        test.parent().and_then(Path::parent).context("the test has no target directory")?;
    let binary = profile.join("skep");
    // `cargo test` builds the library that this test links, but not the binary: it may be stale.
    if modified(&binary) < modified(&test) {
        build(profile)?;
        ensure!(binary.exists(), "{} was not built", binary.display());
        // Where there was nothing to build, so that the next test's process does not look again.
        std::fs::File::options().append(true).open(&binary)?.set_modified(SystemTime::now())?;
    }
    Ok(binary)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn build(profile: &Path) -> Result<()> {
    let target = profile.parent().context("the profile has no target directory")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", "node", "--bin", "skep", "--target-dir"]).arg(target);
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cargo build -p node")?;
    ensure!(status.success(), "cargo build -p node ended with {status}");
    Ok(())
}
