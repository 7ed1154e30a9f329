//! The meta group, from any node: changes and exact reads of the cluster map.

use std::time::Duration;

use bytes::Bytes;
use protocol::{Applied, GroupId, NodeId, Proposal, Stamp, codec, nodes};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Host;
use crate::group::{Group, ProposeError, ReadError};
use crate::network::{CallError, Class, Kind};

/// How long a command for the meta group may take to find its leader.
const META_TIMEOUT: Duration = Duration::from_secs(5);
const META_RETRY: Duration = Duration::from_millis(50);

impl Host {
    /// Replicates a change of the cluster map, through whichever node leads the meta group.
    pub async fn propose_meta(
        &self,
        request: impl Into<nodes::Request>,
    ) -> Result<Applied, ProposeError> {
        let request = request.into();
        let deadline = Instant::now() + META_TIMEOUT;
        let mut others = self.peers.known().into_iter().cycle();
        loop {
            let attempt = self.propose_meta_once(&request).await;
            let group = GroupId::META;
            match attempt {
                Err(ProposeError::NotLeader { leader: None, .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(META_RETRY).await;
                    // One that was away for long may be no member of the group any more.
                    let other = others.next().filter(|_| !self.knows_meta_leader());
                    let Some(other) = other.filter(|&other| other != self.life.node) else {
                        continue;
                    };
                    match self.propose_meta_through(other, &request).await {
                        Err(ProposeError::NotLeader { .. }) => {}
                        outcome => return outcome,
                    }
                }
                Err(ProposeError::NotLeader { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(META_RETRY).await;
                }
                Err(ProposeError::NotLeader { .. }) => {
                    return Err(ProposeError::NotLeader { group, leader: None });
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) async fn propose_meta_once(
        &self,
        request: &nodes::Request,
    ) -> Result<Applied, ProposeError> {
        let group = GroupId::META;
        let not_leader = ProposeError::NotLeader { group, leader: None };
        let meta = self.group(group).ok_or_else(|| not_leader.clone())?;
        let leadership = *meta.leadership().borrow();
        if let Some(owner) = leadership.owned {
            let at = meta.view().time.max((self.clock)());
            let nodes::Request { command, once, note } = request.clone();
            let proposal = Proposal { at: Stamp::at(at), once, command, note };
            return meta.propose(owner.epoch, proposal.encode()?).await;
        }
        let leader = leadership.leader.filter(|&leader| leader != self.life.node);
        self.propose_meta_through(leader.ok_or(not_leader)?, request).await
    }

    fn knows_meta_leader(&self) -> bool {
        self.group(GroupId::META).is_some_and(|meta| meta.leader().is_some())
    }

    /// `to` leads the meta group, or knows who does.
    async fn propose_meta_through(
        &self,
        to: NodeId,
        request: &nodes::Request,
    ) -> Result<Applied, ProposeError> {
        let group = GroupId::META;
        let body = codec::encode(request).map_err(|_| ProposeError::TooLarge { bytes: 0 })?;
        let body = Bytes::from(body);
        let call =
            self.peers.call(to, Class::Control, Kind::MetaPropose, group, body, META_TIMEOUT);
        match call.await {
            Ok(answer) => codec::decode::<Result<Applied, MetaError>>(&answer)
                .map_err(|_| ProposeError::Unknown { group })?
                .map_err(|error| error.into_propose_error()),
            Err(CallError::Unreachable { .. } | CallError::Overloaded { .. }) => {
                Err(ProposeError::NotLeader { group, leader: Some(to) })
            }
            Err(
                CallError::Timeout { .. } | CallError::Broken { .. } | CallError::Refused { .. },
            ) => Err(ProposeError::Unknown { group }),
        }
    }

    /// Waits until the map here has every change that was acknowledged before this call.
    pub async fn sync_map(&self) -> Result<(), ReadError> {
        let group = GroupId::META;
        let missing = ReadError::NotLeader { group, leader: None };
        let meta = self.group(group).ok_or_else(|| missing.clone())?;
        let deadline = Instant::now() + META_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(index) = self.index_of(&meta).await {
                let waited = meta.wait_applied(index, META_TIMEOUT).await;
                return if waited { Ok(()) } else { Err(ReadError::NoQuorum { group }) };
            }
            tokio::time::sleep(META_RETRY).await;
        }
        Err(ReadError::NoQuorum { group })
    }

    /// An index that holds every change of the group that was acknowledged before this call.
    pub(super) async fn index_of(&self, group: &Group) -> Option<u64> {
        let leader = group.leader()?;
        if leader == self.life.node {
            group.confirm().await.ok()?;
            return Some(group.applied());
        }
        let (class, kind, empty) = (Class::Control, Kind::Index, Bytes::new());
        let call = self.peers.call(leader, class, kind, group.id(), empty, META_TIMEOUT);
        codec::decode(&call.await.ok()?).ok()
    }
}

/// What a leader of the meta group answers to a forwarded command.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum MetaError {
    NotLeader,
    Unknown,
}

impl MetaError {
    fn into_propose_error(self) -> ProposeError {
        let group = GroupId::META;
        match self {
            Self::NotLeader => ProposeError::NotLeader { group, leader: None },
            Self::Unknown => ProposeError::Unknown { group },
        }
    }
}
