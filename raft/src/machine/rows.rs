//! Rows in order of their keys, and their digest.

use std::collections::BTreeMap;

use protocol::{Digest, codec};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Hashes rows one after the other.
#[derive(Debug)]
pub struct Hasher(Sha256);

impl Hasher {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds one row.
    pub fn row<T: Serialize>(&mut self, row: &T) {
        match codec::encode(row) {
            Ok(bytes) => self.0.update(&bytes),
            // A row was decoded from an entry of less than this bound.
            Err(error) => unreachable!("a row that does not encode: {error}"),
        }
    }

    /// Adds a table: its length, then each row.
    pub fn table<K: Serialize, V: Serialize>(&mut self, table: &BTreeMap<K, V>) {
        self.row(&table.len());
        for row in table {
            self.row(&row);
        }
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}
