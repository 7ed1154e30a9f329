//! The words of skep: what things are, how they are asked for, how they travel.
//!
//! No I/O, no clock, no runtime. Every other crate speaks in these types.

pub mod audit;
pub mod codec;
pub mod command;
pub mod id;
pub mod idempotency;
pub mod jobs;
pub mod keys;
pub mod limits;
pub mod models;
pub mod name;
pub mod nodes;
pub mod owner;
pub mod peer;
pub mod plans;
pub mod tenants;
pub mod time;
pub mod usage;
pub mod versions;
pub mod wire;

pub use command::{Applied, Command, Effect, Entry, Outcome, Proposal, Refusal, Reply};
pub use id::{BackupId, ClusterId, Digest, GroupId, JobId, KeyId, NodeId, ReplicaId, TenantId};
pub use name::Name;
pub use time::{Stamp, Steady, Time};
