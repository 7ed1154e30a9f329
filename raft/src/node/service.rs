//! What peers ask of this node's groups.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use protocol::nodes::{self, Directory, Registration};
use protocol::{ClusterId, Digest, GroupId, NodeId, Refusal, ReplicaId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cut::Wanted;
use super::meta::MetaError;
use super::{ELECTION_MAX, Host, joined};
use crate::background;
use crate::checkpoint::staging::{Arrivals, StagingError};
use crate::checkpoint::stream::{Begin, Install, Part};
use crate::group::{Group, ProposeError};
use crate::network::rpc::Ballot;
use crate::network::trust::Authority;
use crate::network::{Kind, Peer, Service};
use crate::types::{AppendRequest, Snapshot, SnapshotData, VoteRequest};

/// A request of a node that is not a member.
#[derive(Serialize, Deserialize)]
pub struct JoinRequest {
    /// The secret of the token. It is said only to a node that has shown the right authority.
    pub secret: String,
    pub registration: Registration,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "join from {}", self.registration.peer)
    }
}

/// What a new member needs to start.
#[derive(Debug, Serialize, Deserialize)]
pub enum JoinAnswer {
    Welcome(Box<Welcome>),
    Refused(Refusal),
    /// Nobody leads the meta group at the moment, or the outcome is unknown.
    Unavailable,
}

/// Who the new member is, and whom it may believe.
#[derive(Serialize, Deserialize)]
pub struct Welcome {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub replica: ReplicaId,
    pub authority: Authority,
    /// As in [`nodes::Secrets`].
    pub cookie: [u8; 32],
    pub directory: Directory,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.node, self.cluster)
    }
}

/// What the cluster keeps of the secret of a join token.
#[must_use]
pub fn token_digest(secret: &str) -> Digest {
    Digest(Sha256::digest(secret.as_bytes()).into())
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
        from: Peer,
        kind: Kind,
        group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let host = self.host.get().cloned();
        Box::pin(async move {
            let host = host.ok_or("starting")?;
            serve(&host, from.node, kind, group, &body).await
        })
    }
}

async fn serve(
    host: &Arc<Host>,
    from: NodeId,
    kind: Kind,
    group: GroupId,
    body: &[u8],
) -> Result<Bytes, String> {
    match kind {
        Kind::Append => {
            let (group, request): (_, AppendRequest) = addressed(host, group, body)?;
            let answer = group.raft().append_entries(request).await.map_err(text)?;
            if answer.is_success() {
                group.heard().note();
            }
            write(&answer)
        }
        Kind::Vote => {
            votes(host)?;
            let (group, request) = addressed(host, group, body)?;
            write(&vote(&group, request).await?)
        }
        Kind::PreVote => {
            votes(host)?;
            let (group, request) = addressed(host, group, body)?;
            write(&group.raft().pre_vote(request).await.map_err(text)?)
        }
        Kind::TransferLeader => {
            if host.is_leaving() {
                return Err("about to stop".to_owned());
            }
            let (group, request) = addressed(host, group, body)?;
            write(&group.raft().handle_transfer_leader(request).await.map_err(text)?)
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
        Kind::Index => {
            let here = host.group(group).ok_or_else(|| format!("group {group} is not here"))?;
            here.confirm().await.map_err(text)?;
            write(&here.applied())
        }
        Kind::Directory => write(&*host.peers.trust().directory()),
        Kind::SnapshotBegin => {
            let Begin { head } = read(body)?;
            let at = blocking(host, move |arrivals| arrivals.begin(group, head)).await?;
            write(&at)
        }
        Kind::SnapshotPart => {
            let Part { applied, after, rows } = read(body)?;
            let take = move |arrivals: &Arrivals| arrivals.take(group, applied, &after, &rows);
            write(&blocking(host, take).await?)
        }
        Kind::SnapshotInstall => {
            let Install { replica, vote, applied } = read(body)?;
            let own = here(host, group, replica)?;
            let finish = move |arrivals: &Arrivals| arrivals.finish(group, applied, replica);
            let (head, staged) = blocking(host, finish).await?;
            crate::failpoint::hit("host-staged");
            let snapshot = Snapshot { meta: head.meta(), snapshot: SnapshotData::Staged(staged) };
            let installed = own.raft().install_full_snapshot(vote, snapshot).await;
            own.heard().note();
            write(&installed.map_err(text)?)
        }
        Kind::Cut => write(&host.cut_for_peer(group).await?),
        Kind::CutRows => {
            let Wanted { applied, after } = read(body)?;
            write(&host.rows_for_peer(group, applied, after).await?)
        }
        Kind::Join => write(&join(host, read(body)?).await),
        Kind::Readmit => write(&host.readmit(from, read(body)?).await),
        Kind::BlobPut | Kind::BlobGet => Err("not on this connection".to_owned()),
    }
}

/// openraft forgets leases on restart: a vote given now could elect a second leader while the first is
/// still obeyed.
fn votes(host: &Host) -> Result<(), String> {
    let wait = ELECTION_MAX.saturating_sub(host.started.elapsed());
    if wait > Duration::ZERO {
        return Err(format!("just started, votes in {} ms", wait.as_millis()));
    }
    Ok(())
}

async fn vote(group: &Group, request: VoteRequest) -> Result<Ballot, String> {
    let led = group.raft().server_metrics().borrow_watched().state == ServerState::Leader;
    let at_once = led || request.leadership_transfer;
    let answer = group.raft().vote(request).await.map_err(text)?;
    // After the vote: from now on nobody of an earlier term is heard here.
    let silence = if at_once { Duration::ZERO } else { group.heard().as_voter() };
    Ok(Ballot { answer, silence_ms: silence.as_millis() as u64 })
}

async fn join(host: &Arc<Host>, request: JoinRequest) -> JoinAnswer {
    let JoinRequest { secret, registration } = request;
    let token = token_digest(&secret);
    if !is_issued(host, token) {
        // It may have been issued a moment ago, elsewhere. A false one must leave no entry: whoever
        // reaches the port could fill the log with them.
        if host.sync_map().await.is_err() {
            return JoinAnswer::Unavailable;
        }
        if !is_issued(host, token) {
            return JoinAnswer::Refused(Refusal::BadToken);
        }
    }
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
    JoinAnswer::Welcome(Box::new(Welcome {
        cluster: map.cluster,
        node: node.id,
        replica,
        authority: host.peers.trust().authority().clone(),
        cookie: map.secrets.cookie,
        directory: map.directory(),
    }))
}

/// What a peer's state needs of the disk.
async fn blocking<T: Send + 'static>(
    host: &Host,
    work: impl FnOnce(&Arrivals) -> Result<T, StagingError> + Send + 'static,
) -> Result<T, String> {
    let arrivals = Arc::clone(&host.arrivals);
    background::run(move || work(&arrivals)).await.map_err(text)?.map_err(text)
}

fn is_issued(host: &Host, token: Digest) -> bool {
    host.map().borrow().as_ref().is_some_and(|map| map.tokens.contains_key(&token))
}

/// The replica that is asked. Another one of the group must not answer for it: it would promise what it
/// does not hold once this node has made the other.
fn here(host: &Host, group: GroupId, replica: ReplicaId) -> Result<Group, String> {
    let found = host.group(group).filter(|found| found.replica() == replica);
    found.ok_or_else(|| format!("replica {replica} of group {group} is not here"))
}

/// A request of the group's Raft, and the replica that it is for.
fn addressed<T: DeserializeOwned>(
    host: &Host,
    group: GroupId,
    body: &[u8],
) -> Result<(Group, T), String> {
    let (replica, request) = read(body)?;
    Ok((here(host, group, replica)?, request))
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
