//! The API from outside, on clusters of real processes.

mod bad_input;
mod failover;
mod isolation;
mod openapi;
mod python_client;
mod scan_jobs;
mod stage;
mod tenants_keys;
