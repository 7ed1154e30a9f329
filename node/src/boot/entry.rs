//! How a process becomes a node: again, as its directory says, unless the cluster objects; as a new one,
//! with a join token; or as the first of a new cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::nodes::{Command, Directory, JoinToken, LifeId, Registration, Secrets};
use protocol::{ClusterId, NodeId, Refusal, ReplicaId};
use raft::Host;
use raft::network::trust::{Authority, Keys, NodeKey};
use raft::network::{Peers, Reason, Trust};
use raft::node::{DirectoryError, JoinAnswer, JoinRequest, Welcome};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{BootError, Join, failed};
use crate::identity::{self, NodeFile};

/// How long a new node waits for the cluster that it joins.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
const JOIN_PAUSE: Duration = Duration::from_millis(250);
/// A node that hears of no leader for this long asks whether it is still known.
const SILENCE: Duration = Duration::from_secs(10);
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// How long a node that starts waits until its last life is seen to be over. Peers notice a silent
/// one within two seconds.
const TWIN_TIMEOUT: Duration = Duration::from_secs(5);
const TWIN_PAUSE: Duration = Duration::from_millis(250);

/// What the process was asked to be.
pub(super) struct Asked<'a> {
    pub(super) data: &'a Path,
    /// Whether there is a log.
    pub(super) used: bool,
    pub(super) join: Option<Join>,
    pub(super) cluster: Option<ClusterId>,
}

/// A node, as itself and to its peers.
pub(super) struct Member {
    pub(super) file: NodeFile,
    pub(super) trust: Arc<Trust>,
}

impl Member {
    /// Puts what peers check into what the node says of itself.
    pub(super) fn stands_in(&self, registration: &mut Registration) {
        let start = &self.trust.identity().start;
        (registration.incarnation, registration.life) = (start.incarnation, start.life);
        registration.pin = self.trust.pin();
    }
}

fn refused(error: impl std::fmt::Display) -> BootError {
    BootError::Refused(error.to_string())
}

/// The node that the directory belongs to, in its next life; nothing of it is on disk yet.
pub(super) async fn resume(
    asked: &Asked<'_>,
    term: Duration,
    dial: &BTreeMap<NodeId, String>,
) -> Result<Option<Member>, BootError> {
    let data = asked.data;
    let Some(file) = NodeFile::read(data).map_err(refused)? else {
        if asked.used {
            return Err(refused(format!("{} has a log but no node.json", data.display())));
        }
        if let (Some(cluster), None) = (asked.cluster, &asked.join) {
            let what = format!("{} is empty and not a directory of {cluster}", data.display());
            return Err(refused(what));
        }
        return Ok(None);
    };
    let file = file.reborn(LifeId(rand::random()));
    let authority = identity::authority(data).map_err(refused)?;
    let authority =
        authority.ok_or_else(|| refused(format!("{} has no tls/authority.key", data.display())))?;
    let member = member(file, authority, identity::node_key(data).map_err(refused)?, term)?;
    belongs(asked, &member.trust)?;
    let saved = raft::node::saved_directory(data).await;
    let saved = saved.map_err(unusable)?;
    understood(data, &member.trust, &saved)?;
    member.trust.learn(saved);
    claim(data, &member.trust, dial).await?;
    Ok(Some(member))
}

fn unusable(error: DirectoryError) -> BootError {
    match error {
        DirectoryError::Io { file, cause } => {
            BootError::Io { what: file.display().to_string(), cause }
        }
        DirectoryError::Version { .. } => refused(error),
    }
}

/// Whether this build speaks what the cluster spoke when the node was last in it. 0 is a directory
/// that was lost: the peers will say.
fn understood(data: &Path, trust: &Trust, saved: &Directory) -> Result<(), BootError> {
    let (active, ours) = (saved.wire, trust.identity().wire);
    if active == 0 || ours.speaks(active) {
        return Ok(());
    }
    let refusal = Refusal::Unspoken { active, speaks: ours };
    Err(refused(format!("{}: {refusal}: start the newer release", data.display())))
}

/// Whether it is a directory of the cluster that was meant.
fn belongs(asked: &Asked<'_>, trust: &Trust) -> Result<(), BootError> {
    let (data, mine) = (asked.data.display(), trust.identity().cluster);
    if let Some(cluster) = asked.cluster.filter(|&cluster| cluster != mine) {
        return Err(refused(format!("{data} is a directory of {mine}, not of {cluster}")));
    }
    let token = asked.join.as_ref().and_then(|join| JoinToken::parse(&join.token).ok());
    if token.is_some_and(|token| token.authority != trust.authority().digest()) {
        return Err(refused(format!("{data} is a directory of {mine}, the token is of another")));
    }
    Ok(())
}

/// Asks whoever can be reached whether this process may be the node.
async fn claim(
    data: &Path,
    trust: &Arc<Trust>,
    dial: &BTreeMap<NodeId, String>,
) -> Result<(), BootError> {
    let peers = Peers::new(Arc::clone(trust), dial.clone());
    let deadline = Instant::now() + TWIN_TIMEOUT;
    loop {
        match peers.claim().await {
            Ok(()) => return Ok(()),
            // The last life may have ended so lately that not everybody has seen it.
            Err(Reason::Twin) if Instant::now() < deadline => {
                tokio::time::sleep(TWIN_PAUSE).await;
            }
            Err(reason) => {
                let node = trust.identity().node;
                return Err(refused(format!("{} is {node}: {reason}", data.display())));
            }
        }
    }
}

/// A new node, of the cluster that it joins or of one that it founds.
pub(super) async fn enter(
    asked: &Asked<'_>,
    term: Duration,
    registration: &Registration,
) -> Result<Member, BootError> {
    let key = identity::node_key(asked.data).map_err(refused)?;
    let life = LifeId(rand::random());
    let registration =
        Registration { incarnation: 1, life, pin: key.pin(), ..registration.clone() };
    let (file, authority, directory) = match &asked.join {
        Some(join) => {
            let welcome = ask_to_join(join, registration).await?;
            if let Some(cluster) = asked.cluster.filter(|&cluster| cluster != welcome.cluster) {
                return Err(refused(format!("this is {}, not {cluster}", welcome.cluster)));
            }
            let Welcome { cluster, node, replica, authority, cookie, directory } = welcome;
            (NodeFile::new(cluster, (node, life), replica, cookie, true), authority, directory)
        }
        None => {
            let cluster = ClusterId(uuid::Uuid::now_v7().as_u128());
            let authority = Authority::found(cluster, actors::clock::wall());
            let authority = authority.map_err(|error| failed(&error.to_string()))?;
            let (node, cookie) = (NodeId(1), rand::random());
            let file = NodeFile::new(cluster, (node, life), ReplicaId(1), cookie, false);
            (file, authority, Directory::default())
        }
    };
    identity::save_authority(asked.data, &authority).map_err(refused)?;
    let member = member(file, authority, key, term)?;
    member.trust.learn(directory);
    Ok(member)
}

fn member(
    file: NodeFile,
    authority: Authority,
    key: NodeKey,
    term: Duration,
) -> Result<Member, BootError> {
    let identity = file.identity().ok_or_else(|| failed("node.json has no identity"))?;
    let trust = Trust::new(identity, Keys { authority, key, term }, actors::clock::wall);
    Ok(Member { file, trust: trust.map_err(|error| failed(&error.to_string()))? })
}

async fn ask_to_join(join: &Join, registration: Registration) -> Result<Welcome, BootError> {
    let token = JoinToken::parse(&join.token).map_err(|_| BootError::BadToken)?;
    let request = JoinRequest { secret: token.secret, registration };
    let request = protocol::codec::encode(&request).map_err(|error| failed(&error.to_string()))?;
    let request = Bytes::from(request);
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while Instant::now() < deadline {
        let (request, wait) = (request.clone(), JOIN_TIMEOUT / 3);
        let asked = raft::network::ask_to_join(&join.address, token.authority, request, wait);
        let answer = match asked.await {
            Ok(answer) => protocol::codec::decode(&answer).ok(),
            // Another cluster than the token's. Nothing of the token was said.
            Err(error) if Reason::of(&error) == Some(Reason::Authority) => {
                return Err(BootError::BadToken);
            }
            Err(error) => {
                warn!(address = join.address, %error, "cluster not reached yet");
                None
            }
        };
        match answer {
            Some(JoinAnswer::Welcome(welcome)) => return Ok(*welcome),
            Some(JoinAnswer::Refused(Refusal::BadToken)) => return Err(BootError::BadToken),
            Some(JoinAnswer::Refused(refusal)) => return Err(refused(refusal)),
            Some(JoinAnswer::Unavailable) | None => tokio::time::sleep(JOIN_PAUSE).await,
        }
    }
    Err(BootError::NoCluster(join.address.clone()))
}

/// Makes the node part of its cluster: bootstraps, or hosts the meta group and says that it is back.
pub(super) async fn settle(
    host: &Arc<Host>,
    mut file: NodeFile,
    data: &Path,
    registration: &Registration,
) -> Result<(), BootError> {
    if file.bootstrapped {
        let saved = host.save_directory(&host.peers().trust().directory()).await;
        saved.map_err(|cause| BootError::Io { what: "peers".to_owned(), cause })?;
        let hosted = host.host(protocol::GroupId::META, file.meta_replica()).await;
        hosted.map_err(|error| failed(&error.to_string()))?;
    } else {
        let cookie = file.cookie().ok_or_else(|| failed("node.json has no cookie"))?;
        let secrets = Secrets { pepper: rand::random(), cookie };
        let bootstrapped = host.bootstrap(secrets, registration.clone()).await;
        bootstrapped.map_err(|error| failed(&error.to_string()))?;
        file.bootstrapped = true;
        file.write(data).map_err(refused)?;
    }
    let (host, registration) = (Arc::clone(host), registration.clone());
    let data = data.to_owned();
    tokio::spawn(async move {
        register(&host, registration).await;
        until_heard(&host).await;
        file.heard();
        // Without it the next start only names more lives than it must.
        if let Err(error) = file.write(&data) {
            warn!(%error, "node.json not written");
        }
    });
    Ok(())
}

/// Tells the cluster where this node is now, for as long as it takes to have a leader; and again when
/// nobody was heard of for long, for it may have been removed while it was cut off. The cluster may
/// know better than this process whether it is the node.
async fn register(host: &Host, registration: Registration) {
    let trust = host.peers().trust();
    let before = trust.identity().start.before.clone();
    let mut known = false;
    loop {
        let (node, registration) = (host.node(), registration.clone());
        let command = Command::Register { node, registration, before: before.clone() };
        match host.propose_meta(command).await {
            Ok(applied) => match applied.outcome {
                Ok(_) => {
                    known = true;
                    silence(host).await;
                }
                Err(Refusal::NotFound) if known => return host.mark_removed(),
                Err(Refusal::NotFound) => return trust.end(Reason::Removed),
                Err(Refusal::Unspoken { .. }) => return trust.end(Reason::Wire),
                Err(refusal) => {
                    info!(%refusal, "not registered");
                    return trust.end(Reason::Over);
                }
            },
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

/// Returns when this node has not known a leader of the meta group for [`SILENCE`].
async fn silence(host: &Host) {
    let mut since = Instant::now();
    let mut ticks = raft::ticks::ticks(LISTEN_EVERY);
    while since.elapsed() < SILENCE {
        let meta = host.group(protocol::GroupId::META);
        if meta.is_some_and(|meta| meta.leader().is_some()) {
            since = Instant::now();
        }
        ticks.tick().await;
    }
}

/// Whether the map here names this life.
pub(crate) fn was_member(host: &Host) -> bool {
    let life = host.peers().identity().start.life;
    let map = host.map();
    let map = map.borrow();
    let known = map.as_ref().and_then(|map| map.nodes.get(&host.node()));
    known.is_some_and(|known| known.registration.life == life)
}

/// Returns when the map here names this life.
async fn until_heard(host: &Host) {
    let (node, life) = (host.node(), host.peers().identity().start.life);
    let mut map = host.map();
    let heard = map.wait_for(|map| {
        let known = map.as_ref().and_then(|map| map.nodes.get(&node));
        known.is_some_and(|known| known.registration.life == life)
    });
    if heard.await.is_err() {
        // The host is gone, and with it the reason to write anything.
        std::future::pending().await
    }
}
