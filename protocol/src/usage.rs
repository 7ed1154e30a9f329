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
    Scan { documents: u32, cached: Cached, tokens: u64, payer: Payer },
}

/// Which documents of a request were answered from the cache: a bit for each, none when none was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached(Vec<u8>);

impl Cached {
    /// How many were.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether that one was.
    #[must_use]
    pub fn has(&self, document: usize) -> bool {
        self.0.get(document / 8).is_some_and(|byte| byte & (1 << (document % 8)) != 0)
    }
}

impl FromIterator<bool> for Cached {
    fn from_iter<I: IntoIterator<Item = bool>>(documents: I) -> Self {
        let mut bytes = Vec::new();
        for (document, _) in documents.into_iter().enumerate().filter(|(_, cached)| *cached) {
            // Ends at the last that was.
            bytes.resize(document / 8 + 1, 0);
            bytes[document / 8] |= 1 << (document % 8);
        }
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cached_is_told_by_its_number_and_takes_no_room_when_nothing_was() {
        let cached: Cached = (0..20).map(|document| [0, 8, 17].contains(&document)).collect();
        assert_eq!((cached.count(), cached.0.len()), (3, 3));
        let told: Vec<usize> = (0..64).filter(|&document| cached.has(document)).collect();
        assert_eq!(told, [0, 8, 17]);
        let none: Cached = [false; 1_000].into_iter().collect();
        assert_eq!((&none, none.count()), (&Cached::default(), 0));
    }
}
