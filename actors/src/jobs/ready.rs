//! Tasks of a shard that nobody runs, in the order in which they should run. The coordinator fills
//! it with each look at the state, and takes from it for workers that have room.

use std::collections::{BTreeSet, VecDeque};

use protocol::peer::Waiting;

use super::Key;

/// Tasks and their documents, the next one first.
#[derive(Debug, Default)]
pub(super) struct Ready(VecDeque<(Key, u32)>);

impl Ready {
    /// What a look has found, in order.
    pub(super) fn new(tasks: Vec<(Key, u32)>) -> Self {
        Self(tasks.into())
    }

    /// The next tasks, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<Key> {
        let tasks = self.0.drain(..most.min(self.0.len()));
        tasks.map(|(key, _)| key).collect()
    }

    pub(super) fn waiting(&self) -> Waiting {
        let tenants: BTreeSet<_> = self.0.iter().map(|((tenant, ..), _)| tenant).collect();
        Waiting {
            tasks: self.0.len() as u32,
            documents: self.0.iter().map(|(_, documents)| u64::from(*documents)).sum(),
            tenants: tenants.len() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{JobId, TenantId};

    use super::*;

    #[test]
    fn tasks_are_taken_once_and_in_order_and_counted_until_then() {
        let key = |tenant, task| (TenantId(tenant), JobId(1), task);
        let mut ready = Ready::new(vec![(key(1, 0), 16), (key(2, 0), 8), (key(1, 1), 16)]);
        let waiting = |tasks, documents, tenants| Waiting { tasks, documents, tenants };
        assert_eq!(ready.waiting(), waiting(3, 40, 2));
        assert_eq!(ready.take(2), [key(1, 0), key(2, 0)]);
        assert_eq!(ready.waiting(), waiting(1, 16, 1));
        assert_eq!(ready.take(5), [key(1, 1)]);
        assert_eq!(ready.waiting(), Waiting::default());
    }
}
