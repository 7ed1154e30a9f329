//! Usage: what was used, counted in the entry that made it so.

use serde::{Deserialize, Serialize};

use crate::limits::Payer;
use crate::time::Month;

/// What one tenant used in one month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests that did work: scans, analyses, job submissions.
    pub calls: u64,
    /// Documents with a result.
    pub documents: u64,
    /// Of these, answered from the cache.
    pub cached: u64,
    /// Words of the documents with a result.
    pub tokens: u64,
    /// Price in millionths of a US dollar.
    pub cost_micros: u64,
    /// Units spent from `per_month`: documents admitted, results or not.
    pub units: u64,
}

impl Usage {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.documents += other.documents;
        self.cached += other.cached;
        self.tokens += other.tokens;
        self.cost_micros += other.cost_micros;
        self.units += other.units;
    }
}

/// The spans that a tenant can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Period {
    CurrentMonth,
    LastMonth,
    YearToDate,
}

impl Period {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CurrentMonth => "current_month",
            Self::LastMonth => "last_month",
            Self::YearToDate => "ytd",
        }
    }

    /// The period of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::CurrentMonth, Self::LastMonth, Self::YearToDate]
            .into_iter()
            .find(|period| period.name() == name)
    }

    /// The first and last month, both included, seen from `now`.
    #[must_use]
    pub fn months(self, now: Month) -> (Month, Month) {
        match self {
            Self::CurrentMonth => (now, now),
            Self::LastMonth => (now.previous(), now.previous()),
            Self::YearToDate => (Month { month: 1, ..now }, now),
        }
    }
}

/// Usage of a period with what is left of the month's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub usage: Usage,
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    /// When the month's units begin anew.
    pub resets_at: crate::Time,
}

/// Work that is done while the caller waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Admits and meters a synchronous scan.
    Scan { documents: u32, tokens: u64, payer: Payer },
}
