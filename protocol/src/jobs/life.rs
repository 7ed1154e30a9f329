//! The life of a job beside its documents: what was wished for it, and what went wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Priority, TASK_ATTEMPTS_MAX};
use crate::models::ModelId;
use crate::{JobId, Time};

/// Characters of a cause that are kept.
pub const CAUSE_CHARS_MAX: usize = 200;
/// A task that failed its first attempt waits for about this long.
const BACKOFF_MS: u64 = 500;
/// However often it failed, it waits no longer than this.
const BACKOFF_MS_MAX: u64 = 60_000;

/// Why an attempt, a task or a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// The node that ran it is gone, or says nothing of it any more.
    WorkerLost,
    /// The node that ran it could not.
    TaskFailed,
    /// The deadline came first.
    DeadlineExceeded,
}

impl Fault {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerLost => "worker_lost",
            Self::TaskFailed => "task_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// A fault with its story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub fault: Fault,
    /// At most [`CAUSE_CHARS_MAX`] characters; no content of a document.
    pub detail: String,
}

impl Cause {
    /// A cause whose story is cut where it is too long.
    #[must_use]
    pub fn new(fault: Fault, detail: &str) -> Self {
        Self { fault, detail: detail.chars().take(CAUSE_CHARS_MAX).collect() }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.fault.name(), self.detail)
    }
}

/// A task that failed an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// It is not leased again before.
    pub not_before: Time,
    pub cause: Cause,
}

/// What a submission may wish beside its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    pub priority: Priority,
    /// It does not run before.
    pub run_at: Option<Time>,
    /// From when it may run until it is neither run nor billed any more.
    pub deadline_ms: Option<u64>,
    /// Attempts that each of its tasks has.
    pub attempts_max: u32,
    /// Which model runs it; `None` is the built-in one. The version is chosen when a document is run.
    pub model: Option<ModelId>,
}

impl Default for Wishes {
    fn default() -> Self {
        let (priority, attempts_max) = (Priority::default(), TASK_ATTEMPTS_MAX);
        Self { priority, run_at: None, deadline_ms: None, attempts_max, model: None }
    }
}

impl Wishes {
    /// Whether a priority is all that is wished.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self { priority: self.priority, ..Self::default() }
    }
}

/// What a job was asked to be, and what became of it beside its documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Life {
    pub wishes: Wishes,
    /// When it is neither run nor billed any more.
    pub deadline: Option<Time>,
    /// The job whose failed part this one does again.
    pub retry_of: Option<JobId>,
    /// The job that does the failed part of this one again.
    pub retried_as: Option<JobId>,
    /// Why it failed, or what failed of it last.
    pub cause: Option<Cause>,
    /// Tasks that failed an attempt and have no result, by number.
    pub setbacks: BTreeMap<u32, Setback>,
}

/// A [`Life`] in bytes. A job with nothing but a priority has those of the priority, as jobs had
/// before there was more to say.
#[derive(Serialize, Deserialize)]
enum Stored {
    Low,
    Normal,
    High,
    Urgent,
    Full(Box<Full>),
}

#[derive(Serialize, Deserialize)]
struct Full {
    wishes: Wishes,
    deadline: Option<Time>,
    retry_of: Option<JobId>,
    retried_as: Option<JobId>,
    cause: Option<Cause>,
    setbacks: BTreeMap<u32, Setback>,
}

impl From<Priority> for Life {
    fn from(priority: Priority) -> Self {
        Self { wishes: Wishes { priority, ..Wishes::default() }, ..Self::default() }
    }
}

impl From<Stored> for Life {
    fn from(stored: Stored) -> Self {
        let full = match stored {
            Stored::Low => return Priority::Low.into(),
            Stored::Normal => return Priority::Normal.into(),
            Stored::High => return Priority::High.into(),
            Stored::Urgent => return Priority::Urgent.into(),
            Stored::Full(full) => *full,
        };
        let Full { wishes, deadline, retry_of, retried_as, cause, setbacks } = full;
        Self { wishes, deadline, retry_of, retried_as, cause, setbacks }
    }
}

impl From<Life> for Stored {
    fn from(life: Life) -> Self {
        let priority = life.wishes.priority;
        if life == Life::from(priority) {
            return match priority {
                Priority::Low => Self::Low,
                Priority::Normal => Self::Normal,
                Priority::High => Self::High,
                Priority::Urgent => Self::Urgent,
            };
        }
        let Life { wishes, deadline, retry_of, retried_as, cause, setbacks } = life;
        Self::Full(Box::new(Full { wishes, deadline, retry_of, retried_as, cause, setbacks }))
    }
}

/// How long a task waits that has failed `attempt` attempts: twice as long each time, less up to a
/// half so that tasks which failed together do not come back together. The same on every replica.
#[must_use]
pub fn backoff_ms(job: JobId, task: u32, attempt: u32) -> u64 {
    let doublings = attempt.saturating_sub(1).min(16);
    let most = (BACKOFF_MS << doublings).min(BACKOFF_MS_MAX);
    most - scatter(job, task, attempt) % (most / 2 + 1)
}

/// A number that looks like chance and is made of its arguments alone (splitmix64).
fn scatter(job: JobId, task: u32, attempt: u32) -> u64 {
    let mut bits = (job.0 as u64) ^ (job.0 >> 64) as u64;
    bits = bits.wrapping_add(u64::from(task) << 32 | u64::from(attempt));
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_plain_life_has_the_bytes_of_its_priority() {
        for priority in [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent] {
            let bytes = codec::encode(&priority).unwrap();
            assert_eq!(codec::encode(&Life::from(priority)).unwrap(), bytes);
            assert_eq!(codec::decode::<Life>(&bytes), Ok(Life::from(priority)));
        }
    }

    #[test]
    fn a_full_life_is_read_as_it_was_written() {
        let cause = Cause::new(Fault::WorkerLost, &"n2 is gone ".repeat(100));
        assert_eq!(cause.detail.chars().count(), CAUSE_CHARS_MAX);
        let wishes = Wishes { run_at: Some(Time(7)), deadline_ms: Some(9), ..Wishes::default() };
        assert!(!wishes.is_plain() && Wishes::default().is_plain());
        let setback = Setback { not_before: Time(3), cause: cause.clone() };
        let life = Life {
            wishes,
            deadline: Some(Time(16)),
            retry_of: Some(JobId(1)),
            retried_as: None,
            cause: Some(cause),
            setbacks: [(2, setback)].into(),
        };
        assert_eq!(codec::decode::<Life>(&codec::encode(&life).unwrap()), Ok(life));
    }

    #[test]
    fn backoff_doubles_up_to_a_bound_and_is_scattered() {
        let waits = |attempt| {
            let waits: Vec<u64> = (0..200).map(|job| backoff_ms(JobId(job), 0, attempt)).collect();
            (*waits.iter().min().unwrap(), *waits.iter().max().unwrap())
        };
        for (attempt, most) in [(1, 500), (2, 1_000), (5, 8_000), (8, 60_000), (30, 60_000)] {
            let (least, longest) = waits(attempt);
            assert!(least >= most / 2 && least < most * 6 / 10, "{attempt}: {least}");
            assert!(longest <= most && longest > most * 9 / 10, "{attempt}: {longest}");
        }
        assert_eq!(backoff_ms(JobId(5), 1, 3), backoff_ms(JobId(5), 1, 3));
    }
}
