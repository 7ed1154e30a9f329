//! How much may be on its way to one peer. Invariant: bytes count from before they are sent until
//! the peer answers or its session is closed, whether or not the caller still waits, since
//! ractor's queues towards a stalled peer have no end of their own.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages that may wait for an answer from one peer.
pub const WINDOW_CALLS: usize = 256;
/// Bytes that may wait for an answer from one peer.
pub const WINDOW_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Window {
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// A place in the window; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    _call: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            calls: Arc::new(Semaphore::new(WINDOW_CALLS)),
            bytes: Arc::new(Semaphore::new(WINDOW_BYTES)),
        }
    }

    /// A place for a message of that size, if there is one now.
    pub(super) fn try_enter(&self, bytes: usize) -> Option<Place> {
        let bytes = u32::try_from(bytes).ok()?;
        let call = Arc::clone(&self.calls).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some(Place { _call: call, _bytes: bytes })
    }

    /// Messages on their way.
    pub(super) fn depth(&self) -> usize {
        WINDOW_CALLS - self.calls.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::{WINDOW_BYTES, WINDOW_CALLS, Window};

    #[test]
    fn the_window_closes_by_count() {
        let window = Window::new();
        let places: Vec<_> = (0..WINDOW_CALLS).map(|_| window.try_enter(1).unwrap()).collect();
        assert!(window.try_enter(1).is_none());
        drop(places);
        assert_eq!(window.depth(), 0);
        assert!(window.try_enter(1).is_some());
    }

    #[test]
    fn the_window_closes_by_bytes_and_a_refusal_takes_nothing() {
        let window = Window::new();
        let most = window.try_enter(WINDOW_BYTES - 10).unwrap();
        assert!(window.try_enter(11).is_none());
        assert_eq!(window.depth(), 1);
        assert!(window.try_enter(10).is_some());
        drop(most);
        assert!(window.try_enter(WINDOW_BYTES).is_some());
    }
}
