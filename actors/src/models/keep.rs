//! Follows the cluster map: loads what serves, lets go of what is gone, brings parts of artefacts here, and
//! removes those that nothing names.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::models::Registry;
use protocol::{Digest, GroupId, TenantId};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Key, Models, locked, tell};

/// How often it is looked whether something is missing.
const INTERVAL: Duration = Duration::from_secs(1);
/// A version that could not be loaded, or a part that was not to be had, is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// How often parts that nothing names are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Parts that are younger may be of an upload that is under way.
const ORPHAN_AGE: Duration = Duration::from_secs(3_600);

pub(super) async fn run(models: Models) {
    let mut ticks = raft::ticks::ticks(INTERVAL);
    let mut changes = models.inner.host.map();
    let mut seen = None;
    let (mut retry, mut sweep) = (Instant::now(), Instant::now());
    let mut whole = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
        let Some(map) = models.map() else { continue };
        let registry = &map.models;
        if seen.as_ref() != Some(registry) {
            models.forget(registry);
            seen = Some(registry.clone());
            (whole, retry) = (false, Instant::now());
        }
        if Instant::now() >= retry {
            retry = Instant::now() + AGAIN;
            whole = whole || models.bring(registry).await;
            for key in models.serving() {
                // Why it failed is logged, and told by the check of readiness.
                let _ = models.ready(key).await;
            }
        }
        if Instant::now() >= sweep {
            sweep = Instant::now() + SWEEP_INTERVAL;
            models.sweep(registry).await;
        }
    }
}

impl Models {
    /// Unloads versions that are not in the registry any more.
    fn forget(&self, registry: &Registry) {
        let there = |(id, version): &Key| {
            registry.find(*id).is_some_and(|(_, model)| model.versions.contains_key(version))
        };
        let mut loaded = locked(&self.inner.loaded);
        loaded.retain(|key, _| there(key));
        tell(&loaded);
        drop(loaded);
        locked(&self.inner.failed).retain(|key, _| there(key));
    }

    /// Whether every part is here then.
    async fn bring(&self, registry: &Registry) -> bool {
        let mut whole = true;
        for part in registry.parts() {
            let kept = self.inner.blobs.keep(GroupId::META, TenantId::CLUSTER, part).await;
            if let Err(error) = kept {
                debug!(%error, "part of an artefact not brought here");
                whole = false;
            }
        }
        whole
    }

    async fn sweep(&self, registry: &Registry) {
        let named: BTreeSet<Digest> = registry.parts().map(|part| part.sha256).collect();
        match self.inner.blobs.sweep(TenantId::CLUSTER, named, ORPHAN_AGE).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "parts of artefacts removed that nothing names"),
            Err(error) => debug!(%error, "parts of artefacts not swept"),
        }
    }
}
