//! Which jobs changed of late, so that their owner need not look at all of them to find out.

use std::collections::VecDeque;

use protocol::{JobId, TenantId};

/// Changes that are remembered. An owner looks many times a second; one that is further behind looks
/// at everything once.
const KEPT: usize = 4096;

/// Numbers from 1; the newest last.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    newest: u64,
    names: VecDeque<(TenantId, JobId)>,
}

impl Changes {
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    pub(super) fn note(&mut self, name: (TenantId, JobId)) {
        if self.names.len() == KEPT {
            self.names.pop_front();
        }
        self.names.push_back(name);
        self.newest += 1;
    }

    /// Everything may have changed.
    pub(super) fn forget(&mut self) {
        self.names.clear();
        self.newest += 1;
    }

    pub(super) fn since(
        &self,
        change: u64,
    ) -> Option<impl Iterator<Item = (TenantId, JobId)> + '_> {
        let missed = usize::try_from(self.newest.checked_sub(change)?).ok()?;
        let known = self.names.len().checked_sub(missed)?;
        Some(self.names.range(known..).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_told_and_what_is_not_is_known_to_be_missing() {
        let mut changes = Changes::default();
        let told = |changes: &Changes, since| {
            changes.since(since).map(|names| names.map(|(_, job)| job.0).collect::<Vec<_>>())
        };
        assert_eq!(told(&changes, 0), Some(Vec::new()));
        for job in 1..=3 {
            changes.note((TenantId(1), JobId(job)));
        }
        assert_eq!(told(&changes, 1), Some(vec![2, 3]));
        assert_eq!(told(&changes, changes.newest()), Some(Vec::new()));
        assert_eq!(told(&changes, 9), None, "of another history");
        let seen = changes.newest();
        changes.forget();
        assert_eq!(told(&changes, seen), None);
        let seen = changes.newest();
        for job in 0..=KEPT as u128 {
            changes.note((TenantId(1), JobId(job)));
        }
        assert_eq!(told(&changes, seen), None);
        assert_eq!(told(&changes, seen + 1).map(|names| names.len()), Some(KEPT));
    }
}
