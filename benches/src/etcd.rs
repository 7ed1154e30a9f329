//! The peer of a proposal: etcd, three members, asked through the leader's HTTP gateway.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::cli::launch::{Ports, free_ports};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::load::{Connection, closed_loop, request};
use crate::sample::Sample;

const START_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// 256 bytes, as base64 has them.
const VALUE_DIGITS: usize = 342;

/// Three members on loopback.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Child>,
    /// Where the leader takes requests.
    leader: String,
    directory: TempDir,
}

/// The program, if it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|program| program.is_file())
}

impl Etcd {
    /// Starts three members and waits until a put succeeds.
    pub(crate) async fn start(program: &Path) -> Result<Etcd> {
        let directory = tempfile::Builder::new().prefix("skep-bench-etcd-").tempdir()?;
        let ports = free_ports(3)?;
        let peer = |(i, at): (usize, &Ports)| format!("n{i}=http://127.0.0.1:{}", at.peer);
        let cluster = ports.iter().enumerate().map(peer).collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (i, ports) in ports.iter().enumerate() {
            members.push(spawn(program, directory.path(), i, *ports, &cluster)?);
        }
        let deadline = Instant::now() + START_WITHIN;
        loop {
            for member in &mut members {
                let ended = member.try_wait()?;
                ensure!(ended.is_none(), "etcd has ended: {ended:?}");
            }
            for at in &ports {
                let address = format!("127.0.0.1:{}", at.http);
                if leads(&address).await.unwrap_or(false) {
                    return Ok(Etcd { members, leader: address, directory });
                }
            }
            ensure!(Instant::now() < deadline, "etcd has no leader within {START_WITHIN:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(Child::id).collect()
    }

    /// Puts 256 bytes, each connection at a key of its own, for `time`.
    pub(crate) async fn measure(&self, connections: usize, time: Duration) -> Result<Sample> {
        let requests = (0..connections).map(|i| put(&self.leader, i)).collect();
        closed_loop(&self.leader, requests, time, &self.pids()).await.context("etcd")
    }

    /// Whether the member that is asked has led all the time.
    pub(crate) async fn still_leads(&self) -> bool {
        leads(&self.leader).await.unwrap_or(false)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        for member in &mut self.members {
            member.kill().await?;
        }
        Ok(self.directory.close()?)
    }
}

fn spawn(program: &Path, directory: &Path, i: usize, ports: Ports, cluster: &str) -> Result<Child> {
    let clients = format!("http://127.0.0.1:{}", ports.http);
    let peers = format!("http://127.0.0.1:{}", ports.peer);
    let data = directory.join(format!("n{i}"));
    let log = std::fs::File::create(directory.join(format!("n{i}.log")))?;
    let mut command = Command::new(program);
    command.args(["--name", &format!("n{i}"), "--log-level", "error"]);
    command.arg("--data-dir").arg(data);
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", cluster]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().context("etcd does not start")
}

/// Whether the member leads and a put through it succeeds.
async fn leads(address: &str) -> Result<bool> {
    let mut connection = Connection::open(address).await?;
    let status = request("POST /v3/maintenance/status", address, None, Some("{}"));
    if connection.ask(&status).await? != 200 {
        return Ok(false);
    }
    let body: Value = serde_json::from_slice(connection.body())?;
    let leads = body["leader"].is_string() && body["leader"] == body["header"]["member_id"];
    Ok(leads && connection.ask(&put(address, 0)).await? == 200)
}

fn put(address: &str, key: usize) -> Vec<u8> {
    // Eight decimal digits are base64 of six bytes.
    let value = "A".repeat(VALUE_DIGITS);
    let body = format!(r#"{{"key":"{key:08}","value":"{value}=="}}"#);
    request("POST /v3/kv/put", address, None, Some(&body))
}
