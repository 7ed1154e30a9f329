//! What the followers of a job are told. Invariant: events are only added, each in the entry that made
//! it so; so an event has the same number on every replica, for as long as there is the job.

use serde::{Deserialize, Serialize};

use super::{Job, Status};
use crate::Time;

/// Changes between held up and going on that are told. Beyond it they are seen in the next progress: all
/// other events are no more than the tasks of the job.
pub const HOLDS_MAX: usize = 100;

/// How a job stood after something had changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Time,
    pub status: Status,
    pub done: u32,
    pub failed: u32,
    pub cached: u32,
}

/// What an event is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Status,
    Progress,
    /// The last.
    Done,
}

impl Kind {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Progress => "progress",
            Self::Done => "done",
        }
    }
}

impl Event {
    /// What it is called after the one before it.
    #[must_use]
    pub fn kind(&self, before: Option<&Self>) -> Kind {
        if self.status.is_terminal() {
            Kind::Done
        } else if before.is_some_and(|before| before.status == self.status) {
            Kind::Progress
        } else {
            Kind::Status
        }
    }
}

impl Job {
    /// Notes how it stands now, if its followers have not been told.
    pub fn tell(&mut self) {
        let counts = self.counts;
        let (done, failed, cached) = (counts.done, counts.failed, counts.cached);
        let now = Event { at: self.updated_at, status: self.status, done, failed, cached };
        let Some(last) = self.events.last() else { return self.events.push(now) };
        if now == (Event { at: now.at, ..*last }) {
            return;
        }
        let progressed = (last.done, last.failed) != (now.done, now.failed);
        if progressed || self.status.is_terminal() || self.holds() < HOLDS_MAX {
            self.events.push(now);
        }
    }

    /// Events that tell of no progress.
    fn holds(&self) -> usize {
        let same =
            |pair: &&[Event]| (pair[0].done, pair[0].failed) == (pair[1].done, pair[1].failed);
        self.events.windows(2).filter(same).count()
    }
}
