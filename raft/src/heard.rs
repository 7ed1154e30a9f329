//! When a replica heard its leader last, and what voters said of that when they elected it.
//!
//! What an owner has promised for a time, it promised after a quorum had confirmed it, and so ends that
//! time after the quorum heard it at the latest. Every quorum shares a voter with the one that elects
//! the next leader, so the voter who heard a leader last tells how long the old promises can still hold.
//! A voter of whom that is not known, because it was just started or led itself, heard somebody now.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::types::{VoteRequest, VoteResponse};

/// Nothing was heard since the replica was started.
const NEVER: u64 = u64::MAX;

/// Of one replica.
#[derive(Debug)]
pub(crate) struct Heard {
    started: Instant,
    /// Milliseconds from the start to when its leader was heard last; [`NEVER`] before the first time.
    at_ms: AtomicU64,
    ballot: Mutex<Option<Ballot>>,
}

/// The votes for this replica in one term.
#[derive(Debug, Clone, Copy)]
struct Ballot {
    term: u64,
    /// When one who voted for it, itself included, last heard another leader.
    last: Instant,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), at_ms: AtomicU64::new(NEVER), ballot: Mutex::default() }
    }

    /// A leader's word was taken, or a quorum has taken this leader's.
    pub(crate) fn note(&self) {
        self.at_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Release);
    }

    /// Since then; the largest there is before the first time.
    pub(crate) fn silence(&self) -> Duration {
        match self.at_ms.load(Ordering::Acquire) {
            NEVER => Duration::MAX,
            at => self.started.elapsed().saturating_sub(Duration::from_millis(at)),
        }
    }

    /// What this replica says of itself when it votes: a life before this one may have heard somebody
    /// until it ended.
    pub(crate) fn as_voter(&self) -> Duration {
        self.silence().min(self.started.elapsed())
    }

    /// Votes are asked for. Who hands over the lead may have been obeyed until now.
    pub(crate) fn campaign(&self, request: &VoteRequest) {
        let term = request.vote.leader_id.term;
        let mut ballot = self.ballot();
        if ballot.is_none_or(|ballot| ballot.term != term) {
            let silence =
                if request.leadership_transfer { Duration::ZERO } else { self.as_voter() };
            *ballot = Some(Ballot { term, last: before(silence) });
        }
    }

    /// A voter answered that it had heard nobody for so long.
    pub(crate) fn answered(&self, term: u64, answer: &VoteResponse, silence: Duration) {
        let last = before(silence);
        if let Some(ballot) = self.ballot().as_mut()
            && ballot.term == term
            && answer.vote_granted
        {
            ballot.last = ballot.last.max(last);
        }
    }

    /// For how long nobody can have had a quorum before this replica, which was elected in this term.
    pub(crate) fn before(&self, term: u64) -> Duration {
        let ballot = self.ballot().filter(|ballot| ballot.term == term);
        ballot.map_or(Duration::ZERO, |ballot| ballot.last.elapsed())
    }

    fn ballot(&self) -> std::sync::MutexGuard<'_, Option<Ballot>> {
        self.ballot.lock().unwrap_or_else(|_| std::process::abort())
    }
}

/// An instant cannot be as early as one likes: what is too long ago is now, which is never too early.
fn before(silence: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(silence).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use openraft::Vote;

    use super::*;

    const TERM: u64 = 7;

    fn asks(leadership_transfer: bool) -> VoteRequest {
        VoteRequest { leadership_transfer, ..VoteRequest::new(Vote::new(TERM, 1), None) }
    }

    fn says(heard: &Heard, granted: bool, silence_s: u64) {
        let answer = VoteResponse::new(Vote::new(TERM, 1), None, granted);
        heard.answered(TERM, &answer, Duration::from_secs(silence_s));
    }

    /// A replica that has run for a minute and heard nobody for so long.
    fn quiet_for(silence_s: u64) -> Heard {
        const MINUTE: Duration = Duration::from_secs(60);
        let heard = Heard { started: before(MINUTE), ..Heard::new() };
        let at = MINUTE - Duration::from_secs(silence_s);
        heard.at_ms.store(at.as_millis() as u64, Ordering::Release);
        heard
    }

    #[test]
    fn the_voter_who_heard_somebody_last_counts() {
        let heard = quiet_for(9);
        heard.campaign(&asks(false));
        says(&heard, true, 5);
        says(&heard, true, 8);
        // It did not help to elect.
        says(&heard, false, 0);
        let silence = heard.before(TERM).as_secs();
        assert_eq!(silence, 5);
        assert_eq!(heard.before(TERM + 1), Duration::ZERO, "another election");
    }

    #[test]
    fn of_whom_it_is_not_known_heard_somebody_now() {
        let new = Heard::new();
        new.campaign(&asks(false));
        says(&new, true, 30);
        assert_eq!(new.before(TERM).as_secs(), 0, "it has just started");
        let handed = quiet_for(9);
        handed.campaign(&asks(true));
        says(&handed, true, 30);
        assert_eq!(handed.before(TERM).as_secs(), 0, "it was told to take over");
        assert_eq!(Heard::new().before(TERM), Duration::ZERO, "nobody was asked");
    }
}
