//! When to ask again, and where. Invariant: what may have been applied is repeated only if the call
//! is harmless to repeat.

use std::time::{Duration, Instant};

use crate::call::Call;
use crate::error::{ClientError, Outcome, Problem};

/// How long and how often a call is tried. Every field is a bound.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    pub tries_max: u32,
    /// No new try begins after this long.
    pub deadline: Duration,
    /// Pause before the second try; doubles up to `pause_max`.
    pub pause: Duration,
    pub pause_max: Duration,
}

impl Retry {
    /// For a person or program that wants an answer: about 15 s of patience.
    pub const PATIENT: Retry = Retry {
        tries_max: 40,
        deadline: Duration::from_secs(15),
        pause: Duration::from_millis(50),
        pause_max: Duration::from_secs(1),
    };

    /// One try, for probes that look at one node.
    pub const NEVER: Retry = Retry {
        tries_max: 1,
        deadline: Duration::ZERO,
        pause: Duration::ZERO,
        pause_max: Duration::ZERO,
    };
}

/// The tries of one call.
pub(crate) struct Tries {
    retry: Retry,
    began: Instant,
    made: u32,
    /// The node to ask next, counted round and round.
    pub(crate) node: usize,
}

impl Tries {
    pub(crate) fn new(retry: Retry, node: usize) -> Tries {
        Tries { retry, began: Instant::now(), made: 0, node }
    }

    /// Waits until the next try is due, or gives the failure back when there should be none.
    pub(crate) async fn pause(
        &mut self,
        call: &Call,
        failure: ClientError,
    ) -> Result<(), ClientError> {
        self.made += 1;
        let Some(wait) = self.wait_after(call, &failure) else { return Err(failure) };
        if moves_on(&failure) {
            self.node += 1;
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn wait_after(&self, call: &Call, failure: &ClientError) -> Option<Duration> {
        if self.made >= self.retry.tries_max || !may_repeat(call, failure) {
            return None;
        }
        let doubled = self.retry.pause * 2_u32.saturating_pow((self.made - 1).min(10));
        let pause = doubled.min(self.retry.pause_max);
        let wait = match failure.problem() {
            // A limit says exactly when to come back; another node would say the same.
            Some(problem) if problem.status == 429 => problem.retry_after?.max(pause),
            // Another node may be ready at once, so a node's Retry-After only bounds from above.
            Some(problem) => problem.retry_after.map_or(pause, |after| after.min(pause)),
            None => pause,
        };
        (self.began.elapsed() + wait <= self.retry.deadline).then_some(wait)
    }
}

fn may_repeat(call: &Call, failure: &ClientError) -> bool {
    match failure {
        ClientError::Problem(problem) => problem_may_pass(call, problem),
        ClientError::Transport { sent, .. } => !sent || call.may_be_repeated(),
        ClientError::Decode { .. } | ClientError::TooLarge { .. } | ClientError::Setup(_) => false,
    }
}

fn problem_may_pass(call: &Call, problem: &Problem) -> bool {
    let settled = problem.outcome == Outcome::NotApplied || call.may_be_repeated();
    match problem.status {
        // A day's quota also says when it ends; only a wait within the deadline is taken.
        429 => problem.retry_after.is_some(),
        409 => problem.code == "idempotency_in_progress",
        502..=504 => settled,
        _ => false,
    }
}

fn moves_on(failure: &ClientError) -> bool {
    !matches!(failure.status(), Some(429 | 409))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Meta;

    fn problem(status: u16, body: &str) -> ClientError {
        let meta = Meta { status, ..Meta::default() };
        ClientError::Problem(Box::new(Problem::read(&meta, None, body.as_bytes())))
    }

    fn check(call: &Call, failure: &ClientError, repeats: bool) {
        assert_eq!(may_repeat(call, failure), repeats, "{call:?} after {failure}");
    }

    #[test]
    fn an_unknown_outcome_is_repeated_only_with_a_key() {
        let unknown = problem(503, r#"{"code":"no_leader","outcome":"unknown"}"#);
        check(&Call::post("/v1/jobs"), &unknown, false);
        check(&Call::post("/v1/jobs").idempotency_key("k"), &unknown, true);
        check(&Call::get("/v1/jobs"), &unknown, true);
    }

    #[test]
    fn what_was_not_applied_may_be_repeated() {
        let refused = problem(503, r#"{"code":"no_leader","outcome":"not-applied"}"#);
        check(&Call::post("/v1/jobs"), &refused, true);
        check(&Call::post("/v1/jobs"), &problem(429, r#"{"retry_after_ms":20}"#), true);
    }

    #[test]
    fn a_refusal_is_final() {
        for status in [400, 401, 402, 403, 404, 409, 412, 413, 422, 507] {
            check(&Call::get("/v1/jobs"), &problem(status, "{}"), false);
        }
    }

    #[test]
    fn a_wait_beyond_the_deadline_is_not_begun() {
        let tries = Tries { made: 1, ..Tries::new(Retry::PATIENT, 0) };
        let tomorrow = problem(429, r#"{"retry_after_ms":86400000}"#);
        assert_eq!(tries.wait_after(&Call::get("/v1/me"), &tomorrow), None);
        let soon = problem(429, r#"{"retry_after_ms":700}"#);
        let wait = tries.wait_after(&Call::get("/v1/me"), &soon);
        assert_eq!(wait, Some(Duration::from_millis(700)));
    }
}
