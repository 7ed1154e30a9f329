//! The state as a checkpoint has it: numbered tables of rows, and a few values beside them.

use protocol::codec::CodecError;
use protocol::owner::Owner;
use protocol::{Steady, Time};
use serde::{Deserialize, Serialize};

use super::table::{Change, Rows};
use super::{Machine, limits};

/// Tables of a machine.
const TABLES: usize = 13;

/// What of a state is no row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scalars {
    time: Time,
    steady: Steady,
    owner: Option<Owner>,
    swept: Option<limits::Row>,
    /// Rows of each table, so that none can be lost unseen.
    counts: Vec<u64>,
}

impl Scalars {
    /// Rows that belong to them.
    pub(crate) fn rows(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A change of a row in one of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub table: u8,
    pub change: Change,
}

impl Machine {
    /// The place of a table is its number on disk: new ones come last, and none goes.
    fn tables(&mut self) -> [&mut dyn Rows; TABLES] {
        [
            &mut self.nodes.map,
            &mut self.tenants.tenants,
            &mut self.tenants.plans,
            &mut self.keys.keys,
            &mut self.keys.last,
            &mut self.jobs.jobs,
            &mut self.usage.months,
            &mut self.limits.ledgers,
            &mut self.limits.slabs,
            &mut self.limits.slots,
            &mut self.audit.heads,
            &mut self.audit.records,
            &mut self.kept.kept,
        ]
    }

    /// Freezes what changed since the last freeze, which must have been taken whole; takes no longer
    /// for many rows than for few.
    pub(crate) fn freeze(&mut self) -> Scalars {
        let counts = self.tables().iter().map(|table| table.count() as u64).collect();
        for table in self.tables() {
            table.freeze();
        }
        let (time, steady, owner, swept) = (self.time, self.steady, self.owner, self.limits.swept);
        Scalars { time, steady, owner, swept, counts }
    }

    /// About `most` of the frozen rows; none when all were taken.
    pub(crate) fn take(&mut self, most: usize) -> Vec<Stored> {
        let mut taken = Vec::new();
        for (number, table) in (0..).zip(self.tables()) {
            let mut changes = Vec::new();
            table.take(most.saturating_sub(taken.len()), &mut changes);
            let stored = |change| Stored { table: number, change };
            taken.extend(changes.into_iter().map(stored));
        }
        taken
    }

    /// Takes every row for changed, for a checkpoint that is written anew.
    pub(crate) fn change_all(&mut self) {
        for table in self.tables() {
            table.change_all();
        }
    }

    /// Puts in a row of a checkpoint; [`Self::restore`] follows the last.
    pub(crate) fn load(&mut self, table: u8, key: &[u8], value: &[u8]) -> Result<(), CodecError> {
        let unknown = || CodecError::Shape(format!("table {table} is not known"));
        let mut tables = self.tables();
        tables.get_mut(usize::from(table)).ok_or_else(unknown)?.load(key, value)
    }

    /// Makes the state whole after its rows were loaded.
    pub(crate) fn restore(&mut self, scalars: Scalars) -> Result<(), CodecError> {
        for table in self.tables() {
            table.loaded();
        }
        let found: Vec<u64> = self.tables().iter().map(|table| table.count() as u64).collect();
        if found != scalars.counts {
            let what = format!("tables of {found:?} rows where {:?} should be", scalars.counts);
            return Err(CodecError::Shape(what));
        }
        self.time = scalars.time;
        self.steady = scalars.steady;
        self.owner = scalars.owner;
        self.limits.swept = scalars.swept;
        self.jobs.restore();
        self.kept.restore();
        Ok(())
    }
}
