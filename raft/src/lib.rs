//! What is true: the log of the node, its Raft groups, and the pure machine that they replicate.
//!
//! openraft is named in this crate and nowhere else; its generics in [`types`] only.

pub mod apply;
mod background;
pub mod backup;
mod checkpoint;
pub mod failpoint;
pub mod group;
mod heard;
mod log;
pub mod machine;
pub mod members;
pub mod network;
pub mod node;
pub mod placement;
mod proposer;
pub mod ticks;
pub mod types;
pub mod wal;

pub use apply::View;
pub use checkpoint::keeper::Figures;
pub use group::{Group, Leadership, ProposeError, ReadError};
pub use node::Host;
