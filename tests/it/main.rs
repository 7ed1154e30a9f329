//! The API from outside, on clusters of real processes; and the house rules.

mod audit;
mod backup;
mod backup_s3;
mod bad_input;
mod cache;
mod checkpoints;
mod cluster;
mod damage;
mod events;
mod failover;
mod house;
mod isolation;
mod job_life;
mod limits;
mod models;
mod openapi;
mod ops;
mod placement;
mod plans;
mod python_client;
mod scan_jobs;
mod stage;
mod tenants_keys;
mod trust;
mod versions;
