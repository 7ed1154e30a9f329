//! What the followers of a job are told. Invariant: events are only added, each in the entry that made
//! it so; so an event has the same number on every replica, for as long as there is the job.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Job, Status};
use crate::Time;

/// Changes between held up and going on that are told. Beyond it they are seen in the next progress: all
/// other events are no more than the tasks of the job.
pub const HOLDS_MAX: usize = 100;

/// Events that are told at once.
pub const TOLD_MAX: usize = 256;

/// How a job stood after something had changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Time,
    pub status: Status,
    pub done: u32,
    pub failed: u32,
    pub cached: u32,
}

/// A job as it is told to one who follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Without its tasks and events.
    pub job: Job,
    /// Events that there are.
    pub known: u32,
    /// The last that was told before.
    pub before: Option<Event>,
    /// The next ones, at most [`TOLD_MAX`].
    pub next: VecDeque<Event>,
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
    /// What is told next to one who has so many of its events.
    #[must_use]
    pub fn follow(&self, told: u32) -> Followed {
        let at = self.events.len().min(told as usize);
        Followed {
            job: self.without_tasks(),
            known: self.known(),
            before: at.checked_sub(1).map(|last| self.events[last]),
            next: self.events[at..].iter().take(TOLD_MAX).copied().collect(),
        }
    }

    /// Events that there are.
    #[must_use]
    pub fn known(&self) -> u32 {
        u32::try_from(self.events.len()).unwrap_or(u32::MAX)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Counts, Life};
    use crate::{JobId, Time};

    fn job(documents: u32) -> Job {
        let counts = Counts { total: documents, ..Counts::default() };
        let mut job = Job {
            id: JobId(1),
            life: Life::default(),
            status: Status::Running,
            price_micros: 0,
            cached_price_micros: 0,
            metered: true,
            created_at: Time(0),
            updated_at: Time(0),
            counts,
            tasks: Vec::new(),
            events: Vec::new(),
        };
        for done in 1..=documents {
            job.counts.done = done;
            job.tell();
        }
        job
    }

    #[test]
    fn who_follows_piece_by_piece_is_told_everything_once_and_in_order() {
        let job = job(2 * TOLD_MAX as u32 + 7);
        let (mut told, mut pieces) = (Vec::new(), Vec::new());
        while told.len() < job.events.len() {
            let followed = job.follow(told.len() as u32);
            assert_eq!((followed.known, followed.before), (job.known(), told.last().copied()));
            assert!(followed.job.events.is_empty());
            pieces.push(followed.next.len());
            told.extend(followed.next);
        }
        assert_eq!((told, pieces), (job.events.clone(), vec![TOLD_MAX, TOLD_MAX, 7]));
        let beyond = job.follow(u32::MAX);
        assert_eq!((beyond.next.len(), beyond.before), (0, job.events.last().copied()));
    }
}
