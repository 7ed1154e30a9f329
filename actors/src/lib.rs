//! Who does it: the owners of shards, the way to them, inference, blobs.
//!
//! ractor, `object_store`, ort, rten and sled are named in this crate and nowhere else.

pub mod ask;
pub mod audit;
pub mod backup;
pub mod blobs;
pub mod bounded;
pub mod cache;
pub mod calendar;
pub mod clock;
pub mod documents;
pub mod figures;
pub mod grants;
mod greeting;
pub mod inference;
pub mod jobs;
mod leases;
mod limits;
pub mod models;
pub mod pepper;
pub mod remote;
pub mod router;
pub mod scans;
mod shard;
pub mod slots;
pub mod standing;
pub mod system;
mod tenants;
pub mod texts;
pub mod vitals;
pub mod work;

pub use ask::{Answered, AskError};
pub use router::{Routed, Router};
pub use system::System;
