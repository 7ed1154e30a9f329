//! How it is reached: wiring, HTTP, command line.

pub mod boot;
pub mod cli;
pub mod config;
pub mod http;
pub mod identity;
pub mod life;
pub mod restore;
pub mod telemetry;
