//! Who writes: one writer for each of at least one tenant per shard, through all nodes.

pub(crate) mod hammer;
pub(crate) mod steady;
mod writer;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use client::tenants::{NewTenant, unlimited};
use node::cli::launch::Cluster;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;

pub(crate) use writer::{Writer, is_unknown};

use crate::history::Board;

/// The shards that a new cluster has.
const SHARDS: usize = 16;
/// Tenants fall on shards at random: this many leave one empty less than once in a million runs.
const TENANTS_MAX: usize = 400;

/// The writers, at rest.
#[derive(Debug)]
pub(crate) struct Writers {
    pub(crate) writers: Vec<Writer>,
}

/// The writers, at work.
#[derive(Debug)]
pub(crate) struct Working {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<Writer>>>,
}

impl Writers {
    /// Makes tenants until every shard has one.
    pub(crate) async fn hire(cluster: &Cluster, dice: &mut StdRng) -> Result<Writers> {
        let admin = cluster.admin()?;
        let mut writers: Vec<Writer> = Vec::new();
        let mut served = BTreeSet::new();
        for i in 0..TENANTS_MAX {
            let wanted = NewTenant {
                name: format!("tenant {i}"),
                plan: Some("professional".to_owned()),
                overrides: Some(unlimited()),
            };
            let made = admin.create_tenant(&wanted, &client::fresh_key()).await?;
            let index = made.meta.index.as_deref().and_then(|index| index.split_once(':'));
            let shard = index.and_then(|(shard, _)| shard.parse().ok());
            let shard: u32 = shard.context("a new tenant came without Skep-Index")?;
            if served.insert(shard) {
                let dice = StdRng::seed_from_u64(dice.random());
                writers.push(Writer::new(cluster, made.body, shard, dice)?);
            }
            if served.len() == SHARDS {
                return Ok(Writers { writers });
            }
        }
        anyhow::bail!("{TENANTS_MAX} tenants reached only {} shards", served.len())
    }

    pub(crate) fn shards(&self) -> BTreeSet<u32> {
        self.writers.iter().map(Writer::shard).collect()
    }

    /// All begin to write.
    pub(crate) fn begin(self, board: &Arc<Board>) -> Working {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = |mut writer: Writer| {
            let (stop, board) = (Arc::clone(&stop), Arc::clone(board));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    writer.write(&board).await?;
                }
                Ok(writer)
            })
        };
        let tasks = self.writers.into_iter().map(begin).collect();
        Working { stop, tasks }
    }
}

impl Working {
    /// Each writer settles what it has begun, then rests.
    pub(crate) async fn rest(self) -> Result<Writers> {
        self.stop.store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        for task in self.tasks {
            writers.push(task.await.context("a writer panicked")??);
        }
        Ok(Writers { writers })
    }

    /// An error if a writer has given up.
    pub(crate) fn ensure_writing(&self) -> Result<()> {
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        ensure!(ended == 0, "{ended} writers gave up");
        Ok(())
    }
}
