//! A table of rows that knows which of them changed since the last checkpoint, and that can be read as
//! it was at one moment while it goes on changing.
//!
//! Freezing takes as long for a million rows as for one: the rows that changed until now are wanted
//! as they are now, and whoever changes one of them first puts its bytes aside.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, RangeBounds};

use protocol::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A row as it was frozen, or that it was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Rows by key. Reads are those of a [`BTreeMap`].
#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    /// Since the last freeze.
    changed: BTreeSet<K>,
    /// Frozen, and neither taken nor put aside.
    wanted: BTreeSet<K>,
    aside: Vec<Change>,
    /// Rows of a checkpoint that is being read.
    loading: Vec<(K, V)>,
}

/// What can be a key of a [`Table`].
pub(super) trait Key: Ord + Clone + Serialize + DeserializeOwned {}

impl<K: Ord + Clone + Serialize + DeserializeOwned> Key for K {}

/// What can be a value of a [`Table`].
pub(super) trait Value: Serialize + DeserializeOwned {}

impl<V: Serialize + DeserializeOwned> Value for V {}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            changed: BTreeSet::new(),
            wanted: BTreeSet::new(),
            aside: Vec::new(),
            loading: Vec::new(),
        }
    }
}

impl<K, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.rows
    }
}

impl<K: Key, V: Value> Table<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.touch(&key);
        self.rows.insert(key, value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        if self.rows.contains_key(key) {
            self.touch(key);
        }
        self.rows.remove(key)
    }

    /// The row to be changed; it counts as changed.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if self.rows.contains_key(key) {
            self.touch(key);
        }
        self.rows.get_mut(key)
    }

    /// The row to be changed, made if it is not there.
    pub(super) fn row(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.touch(&key);
        self.rows.entry(key).or_default()
    }

    /// Changes the rows for which `is_meant` holds.
    pub(super) fn change(&mut self, is_meant: impl Fn(&V) -> bool, change: impl Fn(&mut V)) {
        let meant = self.rows.iter().filter(|(_, value)| is_meant(value));
        let keys: Vec<K> = meant.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.get_mut(key).map(&change);
        }
    }

    pub(super) fn remove_range(&mut self, range: impl RangeBounds<K>) {
        let keys: Vec<K> = self.rows.range(range).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key);
        }
    }

    pub(super) fn remove_where(&mut self, is_meant: impl Fn(&K) -> bool) {
        let keys: Vec<K> = self.rows.keys().filter(|key| is_meant(key)).cloned().collect();
        for key in &keys {
            self.remove(key);
        }
    }

    fn touch(&mut self, key: &K) {
        if !self.wanted.is_empty() && self.wanted.remove(key) {
            let change = frozen(key, self.rows.get(key));
            self.aside.push(change);
        }
        if !self.changed.contains(key) {
            self.changed.insert(key.clone());
        }
    }
}

/// A [`Table`] to whoever stores it.
pub(super) trait Rows {
    /// Rows in it.
    fn count(&self) -> usize;
    /// From now on [`Self::take`] gives what changed before. The last freeze must have been taken whole.
    fn freeze(&mut self);
    /// Moves up to `most` frozen rows to `out`; those put aside come on top.
    fn take(&mut self, most: usize, out: &mut Vec<Change>);
    /// Puts in a row that was stored; it is there after [`Self::loaded`].
    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), CodecError>;
    /// All rows were loaded.
    fn loaded(&mut self);
    /// Takes every row for changed, and forgets a freeze.
    fn change_all(&mut self);
}

impl<K: Key, V: Value> Rows for Table<K, V> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn freeze(&mut self) {
        debug_assert!(self.wanted.is_empty() && self.aside.is_empty());
        self.wanted = std::mem::take(&mut self.changed);
    }

    fn take(&mut self, most: usize, out: &mut Vec<Change>) {
        out.append(&mut self.aside);
        for _ in 0..most {
            let Some(key) = self.wanted.pop_first() else { return };
            out.push(frozen(&key, self.rows.get(&key)));
        }
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), CodecError> {
        self.loading.push((codec::decode_key(key)?, codec::decode_row(key, value)?));
        Ok(())
    }

    fn loaded(&mut self) {
        // Built at once, so that its nodes are full.
        self.rows = std::mem::take(&mut self.loading).into_iter().collect();
    }

    fn change_all(&mut self) {
        self.wanted.clear();
        self.aside.clear();
        self.changed = self.rows.keys().cloned().collect();
    }
}

fn frozen<K: Key, V: Value>(key: &K, value: Option<&V>) -> Change {
    let key = codec::encode_key(key);
    let encoded = key.and_then(|key| {
        let value = value.map(|value| codec::encode_row(&key, value)).transpose()?;
        Ok(Change { key, value })
    });
    match encoded {
        Ok(change) => change,
        // A row is made of parts of entries, which are of less than this bound.
        Err(error) => unreachable!("a row that does not encode: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set(u16, u64),
        Remove(u16),
        Freeze,
        Take(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..40u16, any::<u64>()).prop_map(|(key, value)| Step::Set(key, value)),
            3 => (0..40u16).prop_map(Step::Remove),
            1 => Just(Step::Freeze),
            2 => (0..8usize).prop_map(Step::Take),
        ]
    }

    /// What is stored, brought up to a freeze by what was taken of it.
    #[derive(Default)]
    struct Store {
        rows: BTreeMap<Vec<u8>, Vec<u8>>,
        frozen: Option<BTreeMap<u16, u64>>,
    }

    impl Store {
        fn put(&mut self, changes: Vec<Change>) {
            for Change { key, value } in changes {
                match value {
                    Some(value) => self.rows.insert(key, value),
                    None => self.rows.remove(&key),
                };
            }
        }

        fn assert_is_frozen(&mut self) {
            let Some(frozen) = self.frozen.take() else { return };
            let mut table: Table<u16, u64> = Table::default();
            for (key, value) in &self.rows {
                table.load(key, value).unwrap();
            }
            table.loaded();
            assert_eq!(*table, frozen);
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_makes_the_table_as_it_was_frozen(
            steps in proptest::collection::vec(step(), 1..300),
        ) {
            let mut table: Table<u16, u64> = Table::default();
            let mut store = Store::default();
            for step in steps.into_iter().chain([Step::Freeze]) {
                match step {
                    Step::Set(key, value) => *table.row(key) = value,
                    Step::Remove(key) => drop(table.remove(&key)),
                    Step::Take(most) => {
                        let mut changes = Vec::new();
                        table.take(most, &mut changes);
                        store.put(changes);
                    }
                    Step::Freeze => {
                        let mut rest = Vec::new();
                        table.take(usize::MAX, &mut rest);
                        store.put(rest);
                        store.assert_is_frozen();
                        store.frozen = Some((*table).clone());
                        table.freeze();
                    }
                }
            }
            let mut rest = Vec::new();
            table.take(usize::MAX, &mut rest);
            store.put(rest);
            store.assert_is_frozen();
        }
    }

    #[test]
    fn a_freeze_holds_only_what_changed_since_the_last() {
        let mut table: Table<u16, u64> = Table::default();
        for key in 0..1_000 {
            table.insert(key, 1);
        }
        table.freeze();
        table.take(usize::MAX, &mut Vec::new());
        *table.row(7) = 2;
        table.remove(&2_000);
        table.freeze();
        let mut changes = Vec::new();
        table.take(usize::MAX, &mut changes);
        assert_eq!(changes.len(), 1);
    }
}
