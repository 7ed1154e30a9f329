//! JSON shapes of the public API: what answers look like. Requests are read by the HTTP layer, field by
//! field, so that every mistake is reported at once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub mod audit;
pub mod backups;
pub mod cluster;
pub mod error;
pub mod jobs;
pub mod keys;
pub mod limits;
pub mod models;
pub mod plans;
pub mod scan;
pub mod tenants;
pub mod usage;

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// Always `list`.
    pub object: String,
    pub data: Vec<T>,
    /// Whether `next_cursor` leads to more.
    pub has_more: bool,
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A page; with a cursor there is more.
    #[must_use]
    pub fn new(data: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { object: "list".to_owned(), data, has_more: next_cursor.is_some(), next_cursor }
    }
}

/// An amount of money in the smallest unit of its currency.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Money {
    pub amount_minor: u64,
    /// ISO 4217.
    pub currency: String,
}

impl Money {
    /// Millionths of a US dollar, rounded up to whole cents.
    #[must_use]
    pub fn usd_of_micros(micros: u64) -> Self {
        Self { amount_minor: micros.div_ceil(10_000), currency: "USD".to_owned() }
    }
}
