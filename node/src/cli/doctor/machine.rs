//! What the machine gives a node: files, memory, ports.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use client::{Client, Credential, Retry};
use rustix::process::{Resource, getrlimit};

use super::disk::lacks;
use super::{Finding, size};
use crate::config::Config;
use crate::identity::NodeFile;

/// Files that a node has open beside its clients' connections: segments, checkpoints, peers.
const OWN_FILES: u64 = 1_024;
const MEMORY_WARN: u64 = 512 << 20;
/// Three nodes with the model loaded fit into 400 MiB; each needs room for requests beside that.
const MEMORY_FAIL: u64 = 192 << 20;
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn check(config: &Config) -> Vec<Finding> {
    vec![files(config), memory()]
}

fn files(config: &Config) -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let wanted = u64::from(config.http.connections_max) + OWN_FILES;
    let hard = limit.maximum.map_or_else(|| "unlimited".to_owned(), |hard| hard.to_string());
    Finding::new("open files", lacks(soft, wanted, OWN_FILES), format!("{soft}, hard {hard}"))
        .bound(format!("{wanted}, at least {OWN_FILES}"))
        .advice("raise it (ulimit -n, LimitNOFILE=) or lower http.connections_max")
}

fn memory() -> Finding {
    let check = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = field_kib(&text, "MemAvailable:").map(|kib| kib << 10) else {
        return Finding::skip(check, "/proc/meminfo does not say");
    };
    let limit = cgroup_limit();
    let usable = limit.map_or(available, |limit| limit.min(available));
    let found = match limit {
        Some(limit) => format!("{} available, group limit {}", size(available), size(limit)),
        None => format!("{} available, no group limit", size(available)),
    };
    Finding::new(check, lacks(usable, MEMORY_WARN, MEMORY_FAIL), found)
        .bound(format!("{}, at least {}", size(MEMORY_WARN), size(MEMORY_FAIL)))
        .advice("states of all groups are in memory: give the machine or the group more")
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Of the control group that this process is in, in either version; those above may be tighter, which
/// only the kernel knows.
fn cgroup_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut found = None;
    for file in limit_files(&groups) {
        let limit = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        // Version 1 says unlimited by a number that is larger than any memory.
        let limit = limit.filter(|&limit: &u64| limit < 1 << 60);
        found = found.into_iter().chain(limit).min();
    }
    found
}

fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_end_matches('/');
        if kinds.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/memory.max"));
        } else if kinds.split(',').any(|kind| kind == "memory") {
            files.push(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
            // Inside a container its own group is the root of what it sees.
            files.push("/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned());
        }
    }
    files
}

/// Free, or held by the node that the directory belongs to.
pub(super) async fn ports(config: &Config, data: Option<&Path>) -> Vec<Finding> {
    let own = data.and_then(|data| NodeFile::read(data).ok().flatten());
    let own = own.and_then(|file| file.identity()).map(|identity| identity.node.to_string());
    let (http, peer) = (&config.node.http, &config.node.peer);
    let there = node_at(http).await;
    let client_port = match (is_free(http), &there) {
        (Ok(true), _) => Finding::ok("client port", format!("{http} is free")),
        (Ok(false), Some(node)) if own.as_ref().is_none_or(|own| own == node) => {
            Finding::ok("client port", format!("{node} answers at {http}"))
        }
        (Ok(false), Some(node)) => taken("client port", &format!("{http} is {node}'s")),
        (Ok(false), None) => taken("client port", &format!("{http} is in use")),
        (Err(error), _) => Finding::fail("client port", format!("{http}: {error}"))
            .advice("node.http must be an address of this machine"),
    };
    let runs = there.is_some() && client_port.verdict == super::Verdict::Ok;
    let peer_port = match is_free(peer) {
        Ok(true) if runs => Finding::warn("peer port", format!("{peer} is free, and a node runs"))
            .advice("does it listen elsewhere? name its address with --peer"),
        Ok(true) => Finding::ok("peer port", format!("{peer} is free")),
        Ok(false) if runs => Finding::ok("peer port", format!("{peer} is in use, and a node runs")),
        Ok(false) => taken("peer port", &format!("{peer} is in use")),
        Err(error) => Finding::fail("peer port", format!("{peer}: {error}"))
            .advice("node.peer must be an address of this machine"),
    };
    vec![client_port, peer_port]
}

fn taken(check: &'static str, found: &str) -> Finding {
    Finding::fail(check, found).bound("free, or this node's").advice("name another address")
}

fn is_free(address: &str) -> std::io::Result<bool> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

/// The id of the node that answers clients there.
async fn node_at(address: &str) -> Option<String> {
    // What listens everywhere is reached on loopback.
    let address = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    let client = Client::new(vec![format!("http://{address}")], Credential::none()).ok()?;
    let version = client.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT).version().await;
    let version = version.ok().filter(|version| version.body["name"] == "skep")?;
    Some(version.meta.node.unwrap_or_else(|| "a node that is starting".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_files_of_limits_are_found_in_both_versions() {
        assert_eq!(limit_files("0::/a/b\n"), ["/sys/fs/cgroup/a/b/memory.max"]);
        assert_eq!(limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            limit_files("5:memory,hugetlb:/x\n3:cpu:/y\nnonsense\n"),
            [
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(field_kib("MemTotal: 9 kB\nMemAvailable:   7 kB\n", "MemAvailable:"), Some(7));
        assert_eq!(field_kib("", "MemAvailable:"), None);
    }

    #[tokio::test]
    async fn a_port_of_somebody_else_is_told() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().to_string();
        let mut config = crate::config::load(&crate::config::Sources::default()).unwrap();
        (config.node.http, config.node.peer) = ("127.0.0.1:0".to_owned(), taken.clone());
        let found = ports(&config, None).await;
        assert_eq!(
            found.iter().map(|f| f.verdict).collect::<Vec<_>>(),
            [Verdict::Ok, Verdict::Fail]
        );
        (config.node.http, config.node.peer) = (taken, "192.0.2.1:9".to_owned());
        let found = ports(&config, None).await;
        assert_eq!(found[0].verdict, Verdict::Fail, "{found:?}");
        assert_eq!(found[1].verdict, Verdict::Fail, "{found:?}");
    }
}
