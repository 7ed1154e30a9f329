//! Who leads a group, as this node hears it; opens the ownership when this node has won an election.

use std::time::Duration;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use protocol::owner::{Epoch, OpenOwner, Owner};
use protocol::{Command, Entry, GroupId, Proposal, Reply, Stamp, codec};
use tokio::sync::watch;
use tracing::{debug, info};

use super::{Leadership, Life};
use crate::apply::Shared;
use crate::types::{Payload, Raft};

/// Follows elections; opens the ownership when this node has won one.
pub(super) async fn watch(
    group: GroupId,
    life: Life,
    raft: Raft,
    shared: Shared,
    published: watch::Sender<Leadership>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let (leads, term, leader) = {
            let metrics = metrics.borrow_and_update();
            let leader = metrics.current_leader.and_then(|replica| {
                metrics.membership_config.membership().get_node(&replica).map(|at| at.node)
            });
            let leads = metrics.state == ServerState::Leader;
            (leads, metrics.vote.leader_id.term, leader)
        };
        let open = published.borrow().owned.filter(|owner| leads && owner.term == term);
        publish(&published, Leadership { leader, owned: open });
        if leads && open.is_none() {
            if let Some(owner) = open_owner(life, term, &raft, &shared).await {
                info!(%group, term, epoch = owner.epoch.0, "ownership opened");
                publish(&published, Leadership { leader: Some(life.node), owned: Some(owner) });
            }
            // Leadership may have been lost meanwhile: look again before waiting.
            if raft.server_metrics().borrow_watched().vote.leader_id.term == term
                && published.borrow().owned.is_none()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if published.borrow().owned.is_none() {
                continue;
            }
        }
        if metrics.changed().await.is_err() {
            publish(&published, Leadership::default());
            return;
        }
    }
}

fn publish(published: &watch::Sender<Leadership>, now: Leadership) {
    published.send_if_modified(|seen| {
        let changed = *seen != now;
        *seen = now;
        changed
    });
}

async fn open_owner(life: Life, term: u64, raft: &Raft, shared: &Shared) -> Option<Owner> {
    let open = OpenOwner { node: life.node, incarnation: life.incarnation, term };
    let at = Stamp::at(shared.view().time);
    let proposal = Proposal::new(at, Command::OpenOwner(open));
    let entry = Entry { epoch: Epoch::default(), proposals: vec![proposal] };
    let payload = Payload(Bytes::from(codec::encode(&entry).ok()?));
    match raft.client_write(payload).await {
        Ok(response) => {
            let applied = response.data.applied.into_iter().next()?;
            match applied.outcome {
                Ok(Reply::Opened(owner)) => Some(owner),
                Ok(_) | Err(_) => None,
            }
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => None,
        Err(error) => {
            debug!(%error, "ownership not opened");
            None
        }
    }
}
