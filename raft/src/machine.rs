//! What a group knows: rows, and how a command changes them. Dispatch only; the nouns are below.
//!
//! Pure: no clock, no randomness, no I/O, no hash order. Two replicas that applied the same entries
//! are equal to the bit, which [`Machine::digest`] shows.

use std::collections::VecDeque;

use protocol::idempotency::Once;
use protocol::owner::{Epoch, OpenOwner, Owner};
use protocol::{
    Applied, Command, Digest, Effect, Entry, GroupId, Outcome, Proposal, Refusal, Reply, Stamp,
    Steady, TenantId, Time,
};

pub mod audit;
pub mod idempotency;
pub mod jobs;
pub mod keys;
pub mod limits;
mod models;
pub mod nodes;
pub mod rows;
mod stored;
mod table;
pub mod tenants;
pub mod usage;

#[cfg(test)]
mod tests;

pub use stored::{Scalars, Stored};
pub use table::Change;

/// Digests that are remembered, newest last.
const MARKERS_MAX: usize = 64;

/// The state of one group.
#[derive(Debug, Clone)]
pub struct Machine {
    group: GroupId,
    /// The newest time that a command carried. Never runs back.
    pub time: Time,
    /// The newest service time that a command carried. Never runs back.
    pub steady: Steady,
    pub owner: Option<Owner>,
    pub tenants: tenants::Book,
    pub keys: keys::Book,
    pub jobs: jobs::Book,
    pub usage: usage::Book,
    pub limits: limits::Book,
    pub audit: audit::Book,
    pub kept: idempotency::Book,
    pub nodes: nodes::Book,
    /// Not state: what [`Command::Marker`] found, for comparing replicas.
    markers: VecDeque<(u64, Digest)>,
}

/// The outcomes of an entry, and what its owner should do now.
#[derive(Debug, Default)]
pub struct Changes {
    pub applied: Vec<Applied>,
    pub effects: Vec<Effect>,
}

impl Machine {
    /// A group that has applied nothing.
    #[must_use]
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            time: Time::default(),
            steady: Steady::default(),
            owner: None,
            tenants: tenants::Book::default(),
            keys: keys::Book::default(),
            jobs: jobs::Book::default(),
            usage: usage::Book::default(),
            limits: limits::Book::default(),
            audit: audit::Book::default(),
            kept: idempotency::Book::default(),
            nodes: nodes::Book::default(),
            markers: VecDeque::new(),
        }
    }

    /// The number of the ownership in force; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.owner.map(|owner| owner.epoch).unwrap_or_default()
    }

    /// Applies one entry of the log.
    pub fn apply(&mut self, index: u64, term: u64, entry: Entry) -> Changes {
        let mut changes = Changes::default();
        for proposal in entry.proposals {
            self.time = self.time.max(proposal.at.time);
            // The time of who owns it no more does not count.
            let opens = matches!(proposal.command, Command::OpenOwner(_));
            if opens || entry.epoch == self.epoch() {
                self.steady = self.steady.max(proposal.at.steady);
            }
            let applied = self.apply_one(index, term, entry.epoch, proposal, &mut changes.effects);
            changes.applied.push(applied);
        }
        changes
    }

    fn apply_one(
        &mut self,
        index: u64,
        term: u64,
        epoch: Epoch,
        proposal: Proposal,
        effects: &mut Vec<Effect>,
    ) -> Applied {
        if let Command::OpenOwner(open) = proposal.command {
            return fresh(index, self.open_owner(index, term, open));
        }
        if epoch != self.epoch() {
            let refusal = Refusal::StaleOwner { got: epoch.0, now: self.epoch().0 };
            return fresh(index, Err(refusal));
        }
        let now = Stamp { time: self.time, steady: self.steady, ..proposal.at };
        let of = proposal.command.tenant().unwrap_or(TenantId::CLUSTER);
        let applied = self.apply_once(index, now, proposal.once, proposal.command, effects);
        let told = proposal.note.is_some_and(|note| audit::note(self, now, of, *note, &applied));
        Applied { told, ..applied }
    }

    fn apply_once(
        &mut self,
        index: u64,
        now: Stamp,
        once: Option<Once>,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Applied {
        let Some(once) = once else {
            return fresh(index, self.change(index, now, command, effects));
        };
        self.kept.forget_before(now.time);
        if let Some(earlier) = self.kept.find(&once) {
            return earlier.unwrap_or_else(|refusal| fresh(index, Err(refusal)));
        }
        let applied = fresh(index, self.change(index, now, command, effects));
        self.kept.keep(now.time, once, &applied);
        applied
    }

    fn change(
        &mut self,
        index: u64,
        now: Stamp,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        match command {
            Command::OpenOwner(_) => unreachable!("opened before epochs are compared"),
            Command::Marker | Command::Node(nodes::Asked::Mark) => self.mark(index),
            Command::Tenant(tenant, command) => {
                tenants::apply(self, now.time, tenant, command, effects)
            }
            Command::Key(tenant, command) => keys::apply(self, now.time, tenant, command),
            Command::Usage(tenant, command) => usage::apply(self, now, tenant, command, effects),
            Command::Job(tenant, command) => jobs::apply(self, now, tenant, command, effects),
            Command::Limits(tenant, command) => limits::apply(self, now, tenant, command, effects),
            Command::Plan(plan) => tenants::adopt(self, now.time, &plan),
            Command::Audit(tenant, command) => audit::apply(self, now, index, tenant, command),
            Command::Return { worker, slabs } => limits::give_back(self, now, worker, &slabs),
            Command::Lapse { worker, running } => limits::lapse(self, now, worker, &running),
            Command::Node(nodes::Asked::Claim(claim)) => self.kept.claim(index, now.time, claim),
            Command::Node(nodes::Asked::Release(claim)) => self.kept.release(claim),
            Command::Node(command) => nodes::apply(&mut self.nodes, now.time, command),
        }
    }

    fn open_owner(&mut self, index: u64, term: u64, open: OpenOwner) -> Outcome {
        if open.term != term {
            // Written by a leader of an earlier term, committed by its successor.
            return Err(Refusal::StaleOwner { got: open.term, now: term });
        }
        let owner = Owner {
            node: open.node,
            incarnation: open.incarnation,
            term,
            epoch: Epoch(index),
            since: self.time,
        };
        self.owner = Some(owner);
        Ok(Reply::Opened(owner))
    }

    fn mark(&mut self, index: u64) -> Outcome {
        if self.markers.len() == MARKERS_MAX {
            self.markers.pop_front();
        }
        let digest = self.digest();
        self.markers.push_back((index, digest));
        Ok(Reply::Marked)
    }

    /// The digest that the marker at `index` found, while it is remembered.
    #[must_use]
    pub fn marked(&self, index: u64) -> Option<Digest> {
        self.markers.iter().find(|(at, _)| *at == index).map(|&(_, digest)| digest)
    }

    /// SHA-256 over every row in order. Equal states have equal digests.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = rows::Hasher::new();
        hasher.row(&(self.group, self.time, self.steady, self.owner));
        self.tenants.digest(&mut hasher);
        self.keys.digest(&mut hasher);
        self.jobs.digest(&mut hasher);
        self.usage.digest(&mut hasher);
        self.limits.digest(&mut hasher);
        self.audit.digest(&mut hasher);
        self.kept.digest(&mut hasher);
        self.nodes.digest(&mut hasher);
        hasher.finish()
    }
}

fn fresh(index: u64, outcome: Outcome) -> Applied {
    Applied { index, outcome, replayed: None, told: false }
}
