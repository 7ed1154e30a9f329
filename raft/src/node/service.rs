//! What peers ask of this node's groups.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::nodes::{self, Registration};
use protocol::{ClusterId, Digest, GroupId, NodeId, Refusal, ReplicaId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ELECTION_MAX, Host, MetaError, joined};
use crate::group::ProposeError;
use crate::network::{Kind, Peer, Service};
use crate::types::{AppendRequest, TypeConfig, VoteRequest};

/// A request of a node that is not a member.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// SHA-256 of the token; the token itself is not sent.
    pub token: Digest,
    pub registration: Registration,
}

/// What a new member needs to start.
#[derive(Debug, Serialize, Deserialize)]
pub enum JoinAnswer {
    Welcome {
        cluster: ClusterId,
        node: NodeId,
        replica: ReplicaId,
        secret: [u8; 32],
        addresses: BTreeMap<NodeId, String>,
    },
    Refused(Refusal),
    /// Nobody leads the meta group at the moment, or the outcome is unknown.
    Unavailable,
}

/// Serves a [`Host`], once there is one: the port is bound before the groups are open.
#[derive(Debug, Default, Clone)]
pub struct RaftService {
    host: Arc<OnceLock<Arc<Host>>>,
}

impl RaftService {
    /// From now on requests reach the host. A second host is ignored.
    pub fn set(&self, host: Arc<Host>) {
        // Set once, at boot.
        let _ = self.host.set(host);
    }
}

impl Service for RaftService {
    fn call(
        &self,
        _from: Peer,
        kind: Kind,
        group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let host = self.host.get().cloned();
        Box::pin(async move {
            let host = host.ok_or("starting")?;
            serve(&host, kind, group, &body).await
        })
    }
}

async fn serve(host: &Arc<Host>, kind: Kind, group: GroupId, body: &[u8]) -> Result<Bytes, String> {
    match kind {
        Kind::Append => {
            let raft = replica(host, group)?;
            let request: AppendRequest = read(body)?;
            write(&raft.append_entries(request).await.map_err(text)?)
        }
        Kind::Vote | Kind::PreVote => {
            // openraft forgets leases on restart: a vote given now could elect a second leader
            // while the first still serves lease reads.
            let wait = ELECTION_MAX.saturating_sub(host.started.elapsed());
            if wait > Duration::ZERO {
                return Err(format!("just started, votes in {} ms", wait.as_millis()));
            }
            let raft = replica(host, group)?;
            let request: VoteRequest = read(body)?;
            let answer = if kind == Kind::PreVote {
                raft.pre_vote(request).await
            } else {
                raft.vote(request).await
            };
            write(&answer.map_err(text)?)
        }
        Kind::TransferLeader => {
            if host.is_leaving() {
                return Err("about to stop".to_owned());
            }
            let raft = replica(host, group)?;
            let request: openraft::raft::TransferLeaderRequest<TypeConfig> = read(body)?;
            write(&raft.handle_transfer_leader(request).await.map_err(text)?)
        }
        Kind::MetaPropose => {
            let request: nodes::Request = read(body)?;
            let outcome = host.propose_meta_once(&request).await;
            write(&outcome.map_err(|error| match error {
                ProposeError::Unknown { .. } => MetaError::Unknown,
                ProposeError::NotLeader { .. }
                | ProposeError::Overloaded { .. }
                | ProposeError::TooLarge { .. } => MetaError::NotLeader,
            }))
        }
        Kind::MetaIndex => {
            let meta = host.group(GroupId::META).ok_or("no meta group here")?;
            meta.confirm().await.map_err(text)?;
            write(&meta.applied())
        }
        Kind::Join => write(&join(host, read(body)?).await),
        Kind::BlobPut | Kind::BlobGet => Err("not on this connection".to_owned()),
    }
}

async fn join(host: &Arc<Host>, request: JoinRequest) -> JoinAnswer {
    let JoinRequest { token, registration } = request;
    let command = nodes::Command::Join { token, registration };
    let Ok(applied) = host.propose_meta(command).await else { return JoinAnswer::Unavailable };
    let reply = match applied.outcome {
        Ok(reply) => reply,
        Err(refusal) => return JoinAnswer::Refused(refusal),
    };
    let map = host.map().borrow().clone();
    let (Some((node, replica)), Some(map)) = (joined(reply), map) else {
        return JoinAnswer::Unavailable;
    };
    let address = |(&id, node): (&NodeId, &nodes::Node)| (id, node.registration.peer.clone());
    JoinAnswer::Welcome {
        cluster: map.cluster,
        node: node.id,
        replica,
        secret: map.secrets.peer,
        addresses: map.nodes.iter().map(address).collect(),
    }
}

fn replica(host: &Host, group: GroupId) -> Result<crate::types::Raft, String> {
    let group = host.group(group).ok_or_else(|| format!("group {group} is not here"))?;
    Ok(group.raft().clone())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    codec::decode(body).map_err(text)
}

fn write<T: Serialize>(value: &T) -> Result<Bytes, String> {
    codec::encode(value).map(Bytes::from).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
