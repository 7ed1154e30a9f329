//! Who is shaking hands at the moment. Invariant: at most [`HANDSHAKES_MAX`] are, and at most
//! [`SOURCE_MAX`] of one source; the oldest gives way, because a peer that means it is done in
//! milliseconds, while whoever says nothing would keep its place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::AbortHandle;

pub(super) const HANDSHAKES_MAX: usize = 1024;
pub(super) const SOURCE_MAX: usize = 512;

/// The unfinished handshakes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    places: BTreeMap<u64, (IpAddr, AbortHandle)>,
    sources: BTreeMap<IpAddr, usize>,
}

impl Crowd {
    /// Starts a handshake and gives back the source of the one that had to give way, if one had.
    pub(super) fn enter(
        self: &Arc<Self>,
        source: IpAddr,
        start: impl FnOnce(Place) -> AbortHandle,
    ) -> Option<IpAddr> {
        let mut state = self.state();
        let place = state.next;
        state.next += 1;
        let handle = start(Place { crowd: Arc::clone(self), number: place });
        state.places.insert(place, (source, handle));
        *state.sources.entry(source).or_default() += 1;
        let crowded = state.sources[&source] > SOURCE_MAX;
        if !crowded && state.places.len() <= HANDSHAKES_MAX {
            return None;
        }
        let mut places = state.places.iter();
        let oldest = places.find(|(_, (from, _))| !crowded || *from == source);
        let oldest = oldest.map(|(&number, _)| number)?;
        let (from, handle) = state.leave(oldest)?;
        handle.abort();
        Some(from)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_| std::process::abort())
    }
}

impl State {
    fn leave(&mut self, place: u64) -> Option<(IpAddr, AbortHandle)> {
        let (source, handle) = self.places.remove(&place)?;
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
        Some((source, handle))
    }
}

/// A place among the unfinished; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
}

impl Place {
    /// Leaves with the handshake done; false for one that had to give way meanwhile.
    pub(super) fn leave(self) -> bool {
        self.crowd.state().leave(self.number).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already, where it left or gave way.
        let _ = self.crowd.state().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn the_oldest_of_a_crowded_source_gives_way_and_others_stay() {
        let crowd = Arc::new(Crowd::default());
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let enter = |last: u8, name: usize| {
            let tell = tell.clone();
            crowd.enter(Ipv4Addr::new(10, 0, 0, last).into(), |place| {
                let wait = async move {
                    let gone = Gone(name, tell);
                    std::future::pending::<()>().await;
                    drop((place, gone));
                };
                tokio::spawn(wait).abort_handle()
            })
        };
        assert_eq!(enter(1, 0), None);
        for name in 1..=SOURCE_MAX {
            assert_eq!(enter(2, name), None);
        }
        tokio::task::yield_now().await;
        let flood = Ipv4Addr::new(10, 0, 0, 2).into();
        assert_eq!(enter(2, 9999), Some(flood));
        assert_eq!(told.recv().await, Some(1), "the oldest of that source, not of all");
        assert_eq!(crowd.state().places.len(), SOURCE_MAX + 1);
    }

    struct Gone(usize, tokio::sync::mpsc::UnboundedSender<usize>);

    impl Drop for Gone {
        fn drop(&mut self) {
            // The test may be over.
            let _ = self.1.send(self.0);
        }
    }
}
