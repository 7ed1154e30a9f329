//! Results that are being computed. Invariant: a name has one flight at a time; it ends with its result,
//! with its leader, or at its time, so nobody waits for what does not come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::names::Key;

/// Flights of a node. Beyond it everybody computes.
const FLIGHTS_MAX: usize = 65_536;

/// The flights of this node. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    inner: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    flights: HashMap<Key, Flight>,
    newest: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    until: Instant,
    /// Dropped with the flight, which wakes those who follow. Most have nobody.
    ended: Option<watch::Sender<()>>,
}

/// What became of a wish to compute.
#[derive(Debug)]
pub(super) enum Entered {
    Lead(Leader),
    Follow(Follower),
    /// There is no room to note it.
    Full,
}

impl Flights {
    /// Leads the flight of a name until then, or follows the one that is under way.
    pub(super) fn enter(&self, key: Key, until: Instant) -> Entered {
        let mut state = self.state();
        let flight = state.flights.get_mut(&key);
        if let Some(flight) = flight.filter(|flight| flight.is_under_way()) {
            let ended = flight.ended.get_or_insert_with(|| watch::Sender::new(()));
            return Entered::Follow(Follower { ended: ended.subscribe(), until: flight.until });
        }
        if state.flights.len() >= FLIGHTS_MAX {
            state.flights.retain(|_, flight| flight.is_under_way());
        }
        if state.flights.len() >= FLIGHTS_MAX {
            return Entered::Full;
        }
        state.newest += 1;
        let number = state.newest;
        state.flights.insert(key, Flight { number, until, ended: None });
        drop(state);
        Entered::Lead(Leader { flights: self.clone(), key, number })
    }

    /// The result is here, or comes from nowhere.
    pub(super) fn end(&self, key: &Key) {
        self.state().flights.remove(key);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(|_| std::process::abort())
    }
}

impl Flight {
    fn is_under_way(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The right to compute. The flight ends when it is dropped.
#[derive(Debug)]
pub(super) struct Leader {
    flights: Flights,
    key: Key,
    number: u64,
}

impl Leader {
    /// Leaves the flight to its time or to whoever ends it: its leader is on another node.
    pub(super) fn leave(mut self) {
        // No flight has it.
        self.number = 0;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut state = self.flights.state();
        if state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            state.flights.remove(&self.key);
        }
    }
}

/// One who waits for another's result.
#[derive(Debug)]
pub(super) struct Follower {
    ended: watch::Receiver<()>,
    until: Instant,
}

impl Follower {
    /// Returns when the flight has ended, or at `latest`.
    pub(super) async fn wait(mut self, latest: Instant) {
        // Nothing is ever sent: it changes by being dropped.
        let _ = timeout_at(latest.min(self.until), self.ended.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: Key = Key([1; 32]);

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn leads(entered: &Entered) -> bool {
        matches!(entered, Entered::Lead(_))
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_others_wait_for_its_end() {
        let flights = Flights::default();
        let leader = flights.enter(KEY, soon());
        let Entered::Follow(follower) = flights.enter(KEY, soon()) else { panic!("two lead") };
        let began = Instant::now();
        let waiting = tokio::spawn(follower.wait(soon()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(leader);
        waiting.await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert!(leads(&flights.enter(KEY, soon())));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_leads_when_the_time_of_one_that_is_lost_is_over() {
        let flights = Flights::default();
        let Entered::Lead(lost) = flights.enter(KEY, soon()) else { panic!("nobody leads") };
        lost.leave();
        let Entered::Follow(follower) = flights.enter(KEY, soon()) else { panic!("two lead") };
        let began = Instant::now();
        follower.wait(soon() + Duration::from_secs(60)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        let next = flights.enter(KEY, soon());
        assert!(leads(&next) && !leads(&flights.enter(KEY, soon())));
        flights.end(&KEY);
        assert!(leads(&flights.enter(KEY, soon())));
    }

    #[tokio::test]
    async fn a_leader_that_was_overtaken_ends_only_its_own_flight() {
        let flights = Flights::default();
        let old = flights.enter(KEY, Instant::now());
        let new = flights.enter(KEY, soon());
        assert!(leads(&old) && leads(&new));
        drop(old);
        assert!(!leads(&flights.enter(KEY, soon())));
    }
}
