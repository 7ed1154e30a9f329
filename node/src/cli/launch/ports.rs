//! The ports of a node, and how to find free ones.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use super::LaunchError;

/// The two ports of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ports {
    pub http: u16,
    pub peer: u16,
}

// Below the ephemeral range of Linux and macOS: while a node is down, no outgoing connection of
// another process can be given its port.
const LOWEST: u16 = 12_000;
const HIGHEST: u16 = 32_000;
const ATTEMPTS_MAX: u16 = 2_000;

/// Ports for `nodes` nodes on which nobody listens now.
pub fn free_ports(nodes: usize) -> Result<Vec<Ports>, LaunchError> {
    let span = u64::from(HIGHEST - LOWEST);
    let start = RandomState::new().build_hasher().finish() % span;
    let candidates = (0..u64::from(ATTEMPTS_MAX)).map(|step| (start + step) % span);
    let mut free = candidates
        .filter_map(|offset| u16::try_from(offset).ok())
        .map(|offset| LOWEST + offset)
        .filter(|port| is_free(*port));
    let mut ports = Vec::with_capacity(nodes);
    while ports.len() < nodes {
        let (Some(http), Some(peer)) = (free.next(), free.next()) else {
            return Err(LaunchError::Refused("no free ports on 127.0.0.1".to_owned()));
        };
        ports.push(Ports { http, peer });
    }
    Ok(ports)
}

/// Whether nobody listens on `port` of loopback.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
