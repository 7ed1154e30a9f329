//! The Rust client of skep's HTTP API. Any node serves any request, so a client knows several nodes
//! and moves on when one fails. Invariant: a request is sent twice only when that is harmless.

mod answer;
mod call;
mod connection;
mod error;
mod lenient;
mod retry;

pub mod audit;
pub mod backups;
pub mod cluster;
pub mod jobs;
pub mod keys;
pub mod limits;
pub mod models;
pub mod operations;
pub mod plans;
pub mod scan;
pub mod tenants;
pub mod usage;

pub use answer::{Answer, List, Meta};
pub use call::{Call, Method, fresh_key};
pub use connection::{Client, Credential};
pub use error::{ClientError, FieldError, Outcome, Problem};
pub use retry::Retry;
