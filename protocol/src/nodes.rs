//! The cluster map: nodes, groups, replicas, operators. Kept by the meta group.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::audit::Note;
use crate::id::{self, BUCKETS, BadId};
use crate::idempotency::{Claim, Once};
use crate::models::{self, Registry};
use crate::plans::Plan;
use crate::versions::Wire;
use crate::{ClusterId, Digest, GroupId, Name, NodeId, ReplicaId, TenantId, Time};

/// Replicas that a shard has once there are enough nodes.
pub const REPLICAS: usize = 3;
/// Shards of a new cluster.
pub const SHARDS: u32 = 16;
/// Join tokens that can be open at a time.
pub const TOKENS_MAX: usize = 1_000;
/// The longest life of a join token.
pub const TOKEN_TTL_MAX_S: u64 = 3_600;
/// Nodes that there can be.
pub const NODES_MAX: usize = 200;
/// The label by which replicas are spread.
pub const ZONE: &str = "zone";
/// Labels of one node.
pub const LABELS_MAX: usize = 16;
/// Characters in the value of a label.
pub const LABEL_CHARS_MAX: usize = 63;
/// The largest weight of a node.
pub const WEIGHT_MAX: u32 = 1_000;

/// The name of one start of one node, drawn at random: two processes on copies of one directory
/// have different ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeId(pub u128);

impl LifeId {
    /// Reads 32 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadId);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| BadId)
    }
}

impl std::fmt::Display for LifeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A start of a node, as the node itself names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Counts the starts of the directory.
    pub incarnation: u64,
    pub life: LifeId,
    /// The lives before this one by which the cluster may still know the node.
    pub before: Vec<LifeId>,
}

/// What a start is to a cluster that knows an earlier or a later one of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The one that is registered.
    Current,
    /// A restart of the registered one.
    Next,
    /// Later than the registered one, and not known to come from it: the map here may be old.
    Ahead,
    /// Not the registered one, nor after it: a copy of a directory, or an old state of it.
    Over,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Counts the starts of the node; a higher one replaces a lower one.
    pub incarnation: u64,
    /// The start that has this number.
    pub life: LifeId,
    /// SHA-256 of the public key (SPKI, DER) of the node's certificates. It never changes.
    pub pin: Digest,
    /// `http://host:port`
    pub http: String,
    /// `host:port`
    pub peer: String,
    pub version: String,
    /// What its build speaks.
    pub wire: Wire,
    /// Where the node stands, for operators; [`ZONE`] is the one that placement goes by.
    pub labels: BTreeMap<Name, String>,
    /// How much it can take beside others: of two nodes, one with twice the weight gets twice as
    /// much. At least 1.
    pub weight: u32,
    /// The node's public key for signatures (Ed25519).
    pub key: [u8; 32],
}

impl Registration {
    /// What a start of this node is to whoever knows this registration.
    #[must_use]
    pub fn standing(&self, start: &Start) -> Standing {
        match start.incarnation.cmp(&self.incarnation) {
            Ordering::Equal if start.life == self.life => Standing::Current,
            Ordering::Greater if start.before.contains(&self.life) => Standing::Next,
            Ordering::Greater => Standing::Ahead,
            Ordering::Equal | Ordering::Less => Standing::Over,
        }
    }
}

/// What operators want of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    #[default]
    Active,
    /// To lead nothing and to get nothing new; what it holds stays.
    Draining,
    /// It said that it leads nothing and runs nothing.
    Drained,
    /// To lose everything, and then its place in the cluster.
    Removing,
}

impl State {
    /// As operators read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Removing => "removing",
        }
    }
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub registration: Registration,
    pub joined_at: Time,
    pub state: State,
    /// It was away for so long that its replicas are to be made again elsewhere.
    pub lost: bool,
}

impl Node {
    /// Whether it may lead, and be given replicas and tasks.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.state == State::Active && !self.lost
    }

    /// The zone that it stands in, if it says so.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        let labels = &self.registration.labels;
        labels.iter().find(|(name, _)| name.as_str() == ZONE).map(|(_, zone)| zone.as_str())
    }
}

/// Where a group should live. The group's own membership follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub replicas: BTreeMap<ReplicaId, NodeId>,
    /// Of these, the ones that voted in the last membership that the group's leader told of.
    pub voting: BTreeSet<ReplicaId>,
    /// Of these, the ones that are to go. One is dropped when the group's leader has told of a
    /// membership without it; only then may its node forget it.
    pub leaving: BTreeSet<ReplicaId>,
    /// Log index of the membership that was told last.
    pub told: u64,
    /// The node that should lead, when it is up and caught up.
    pub preferred: NodeId,
    /// An operator chose the preferred node: evening out leaves it alone.
    pub pinned: bool,
    /// Counts changes.
    pub epoch: u64,
}

impl Placement {
    /// Replicas that vote and stay.
    pub fn settled(&self) -> impl Iterator<Item = (ReplicaId, NodeId)> {
        let stays = |id: &ReplicaId| self.voting.contains(id) && !self.leaving.contains(id);
        self.replicas.iter().filter(move |(id, _)| stays(id)).map(|(&id, &node)| (id, node))
    }

    /// Whether a replica is on its way in or out.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.leaving.is_empty() || self.replicas.keys().any(|id| !self.voting.contains(id))
    }
}

/// What only members of the cluster may know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Keys the digests of API keys, cursors and idempotency keys.
    pub pepper: [u8; 32],
    /// Second factor of the actors' sessions, on connections whose certificates were checked.
    pub cookie: [u8; 32],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// The text of a join token: a secret, and the hash of the authority of the cluster that it is for,
/// so that a node knows whom it asks before it says the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// 43 base62 digits; the cluster keeps their SHA-256.
    pub secret: String,
    /// SHA-256 of the authority's certificate.
    pub authority: Digest,
}

impl JoinToken {
    const PREFIX: &str = "skep_join_";
    /// 62^43 is the first power above 2^256.
    const DIGITS: usize = 43;

    /// A token with a secret of 32 random bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32], authority: Digest) -> Self {
        Self { secret: id::base62_of_bytes(secret, Self::DIGITS), authority }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let (secret, authority) =
            text.strip_prefix(Self::PREFIX).and_then(|rest| rest.split_once('.')).ok_or(BadId)?;
        let whole = |part: &str| part.len() == Self::DIGITS;
        if !whole(secret) || !whole(authority) {
            return Err(BadId);
        }
        id::bytes_of_base62::<32>(secret)?;
        let authority = Digest(id::bytes_of_base62(authority)?);
        Ok(Self { secret: secret.to_owned(), authority })
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authority = id::base62_of_bytes(&self.authority.0, Self::DIGITS);
        write!(f, "{}{}.{authority}", Self::PREFIX, self.secret)
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

/// A one-use permission to join, kept as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub expires_at: Time,
    /// The node that it let in; that node may ask again, should it not have heard the answer.
    pub used_by: Option<NodeId>,
}

/// The nodes of a cluster at some revision of its map: what one must know to trust a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// 0 where nothing is known yet.
    pub revision: u64,
    /// A missing node with a lower id has been removed.
    pub next_node: u64,
    /// As in [`Map`]; 0 where nothing is known yet.
    pub wire: u16,
    pub nodes: BTreeMap<NodeId, Node>,
}

/// The cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    pub cluster: ClusterId,
    /// Counts the changes of the map.
    pub revision: u64,
    pub secrets: Secrets,
    pub nodes: BTreeMap<NodeId, Node>,
    pub groups: BTreeMap<GroupId, Placement>,
    pub tokens: BTreeMap<Digest, Token>,
    pub operators: BTreeMap<Digest, Time>,
    pub next_node: u64,
    pub next_replica: u64,
    /// The plans, by name.
    pub plans: BTreeMap<Name, Plan>,
    /// The version of the wire that is spoken, and written into the log. Every node speaks it, and it
    /// never falls.
    pub wire: u16,
    /// The models that operators brought.
    pub models: Registry,
}

impl Map {
    /// The shard that a tenant lives in.
    #[must_use]
    pub fn shard_of(&self, tenant: TenantId) -> GroupId {
        let shards = (self.groups.len() as u32).saturating_sub(1).max(1);
        GroupId(1 + u32::from(tenant.bucket()) * shards / u32::from(BUCKETS))
    }

    /// Every shard, without the meta group.
    pub fn shards(&self) -> impl Iterator<Item = (GroupId, &Placement)> {
        self.groups.iter().filter(|(group, _)| !group.is_meta()).map(|(&group, at)| (group, at))
    }

    /// The nodes, for those who check peers.
    #[must_use]
    pub fn directory(&self) -> Directory {
        let Self { revision, next_node, wire, .. } = *self;
        Directory { revision, next_node, wire, nodes: self.nodes.clone() }
    }

    /// A newer version of the wire that every node speaks, if there is one.
    #[must_use]
    pub fn newer_wire(&self) -> Option<u16> {
        let common = Wire::common(self.nodes.values().map(|node| node.registration.wire));
        common.filter(|&common| common > self.wire)
    }

    /// The replica of a group on a node.
    #[must_use]
    pub fn replica_on(&self, group: GroupId, node: NodeId) -> Option<ReplicaId> {
        let placement = self.groups.get(&group)?;
        placement.replicas.iter().find(|(_, at)| **at == node).map(|(&replica, _)| replica)
    }
}

/// A proposal for the meta group on its way to whoever leads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub command: crate::Command,
    pub once: Option<Once>,
    /// For the cluster's own audit, in the same entry.
    pub note: Option<Box<Note>>,
}

impl From<Command> for Request {
    /// A change that no client asked for.
    fn from(command: Command) -> Self {
        Self { command: crate::Command::Node(command), once: None, note: None }
    }
}

/// What is asked of the cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster: its first node holds one replica of every group, replica
    /// `g + 1` of group `g`.
    Bootstrap {
        cluster: ClusterId,
        secrets: Secrets,
        registration: Registration,
    },
    /// The first operator key; refused when there is one.
    Init {
        key: Digest,
    },
    IssueToken {
        token: Digest,
        expires_at: Time,
    },
    /// A new node with an unused token.
    Join {
        token: Digest,
        registration: Registration,
    },
    /// A known node started again or moved.
    Register {
        node: NodeId,
        registration: Registration,
        /// As in [`Start`].
        before: Vec<LifeId>,
    },
    /// One more replica of a group on a node that has none.
    AddReplica {
        group: GroupId,
        node: NodeId,
    },
    /// A replica is to go; refused when too few others vote.
    RemoveReplica {
        group: GroupId,
        replica: ReplicaId,
    },
    /// What a node had of a replica is damaged: it goes, however many are left.
    LoseReplica {
        group: GroupId,
        replica: ReplicaId,
    },
    /// The leader of a group tells of its committed membership.
    Confirm {
        group: GroupId,
        /// Log index of the membership; an older one than the last is refused.
        index: u64,
        voting: BTreeSet<ReplicaId>,
        members: BTreeSet<ReplicaId>,
    },
    Prefer {
        group: GroupId,
        node: NodeId,
    },
    /// The same by an operator's wish, which evening out leaves alone.
    Pin {
        group: GroupId,
        node: NodeId,
    },
    /// Forgets the operators' wishes for leaders.
    Unpin,
    /// What operators want of a node, or that a draining one is drained.
    SetState {
        node: NodeId,
        state: State,
    },
    /// Whether a node was away for too long.
    SetLost {
        node: NodeId,
        lost: bool,
    },
    /// A node that is being removed and holds nothing leaves the map.
    RemoveNode {
        node: NodeId,
    },
    /// Nothing changes; the digest of the map is taken here.
    Mark,
    /// Makes or replaces a plan. Its version is one above the last.
    SetPlan {
        plan: Box<Plan>,
        /// The version that is replaced.
        if_version: Option<u64>,
    },
    /// From now on this version of the wire is spoken; refused unless every node speaks it.
    RaiseWire {
        to: u16,
    },
    Model(models::Command),
    /// An operator's Idempotency-Key is for this request, which a shard is about to be asked; refused
    /// when it is for another.
    Claim(Claim),
    /// The shard was asked, and remembers nothing under the key.
    Release(Claim),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(incarnation: u64, life: u128) -> Registration {
        Registration {
            incarnation,
            life: LifeId(life),
            pin: Digest([0; 32]),
            http: String::new(),
            peer: String::new(),
            version: String::new(),
            wire: Wire::OURS,
            labels: BTreeMap::new(),
            weight: 1,
            key: [0; 32],
        }
    }

    #[test]
    fn a_restart_follows_and_a_copy_does_not() {
        let standing = |incarnation, life, before: &[u128]| {
            let before = before.iter().copied().map(LifeId).collect();
            registered(5, 50).standing(&Start { incarnation, life: LifeId(life), before })
        };
        assert_eq!(standing(5, 50, &[40]), Standing::Current);
        assert_eq!(standing(6, 60, &[50]), Standing::Next);
        assert_eq!(standing(9, 90, &[50, 60, 70]), Standing::Next);
        assert_eq!(standing(5, 51, &[40]), Standing::Over);
        assert_eq!(standing(4, 40, &[]), Standing::Over);
        assert_eq!(standing(6, 61, &[51]), Standing::Ahead);
    }

    #[test]
    fn a_token_reads_what_it_writes_and_nothing_else() {
        let token = JoinToken::new(&[7; 32], Digest([255; 32]));
        let text = token.to_string();
        assert_eq!(JoinToken::parse(&text), Ok(token));
        for wrong in ["", "skep_join_", &text[..text.len() - 1], &text.replace('.', "-")] {
            assert_eq!(JoinToken::parse(wrong), Err(BadId), "{wrong}");
        }
    }
}
