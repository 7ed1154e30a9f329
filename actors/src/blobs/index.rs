//! Which blobs are here, and in which pack. What a process has not put here is not on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use protocol::{Digest, TenantId};

use super::pack::{HEAD_BYTES, Head};

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) at: u32,
    pub(super) bytes: u32,
    /// Of the content, as in its head.
    pub(super) sum: u32,
}

impl Place {
    pub(super) fn of(head: &Head, pack: u32, at: u32) -> Self {
        Self { pack, at, bytes: head.bytes, sum: head.sum }
    }

    fn takes(self) -> u64 {
        u64::from(self.bytes) + HEAD_BYTES as u64
    }
}

/// The blobs of this node, with what it takes to tell where there is room to win.
#[derive(Debug)]
pub(super) struct Index {
    state: Mutex<State>,
    opened: Instant,
}

#[derive(Debug, Default)]
struct State {
    tenants: BTreeMap<TenantId, HashMap<Digest, Known>>,
    packs: BTreeMap<u32, Pack>,
}

#[derive(Debug)]
struct Known {
    place: Place,
    /// Seconds from the start until somebody wished to store it last.
    wished_s: u32,
}

/// Bytes of the blobs of a pack, their heads included.
#[derive(Debug, Default)]
struct Pack {
    all: u64,
    known: u64,
    /// Nothing is added to it.
    closed: bool,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), opened: Instant::now() }
    }

    /// A blob is durable at a place. Where it was before, it is forgotten.
    pub(super) fn insert(&self, head: &Head, place: Place) {
        let mut state = self.state();
        let known = Known { place, wished_s: self.now_s() };
        let before = state.tenants.entry(head.tenant).or_default().insert(head.digest, known);
        if let Some(before) = before {
            state.take_from(before.place);
        }
        let pack = state.packs.entry(place.pack).or_default();
        pack.all += place.takes();
        pack.known += place.takes();
    }

    /// Nothing is added to a pack any more.
    pub(super) fn close(&self, pack: u32) {
        self.state().packs.entry(pack).or_default().closed = true;
    }

    /// Where a blob is.
    pub(super) fn get(&self, tenant: TenantId, digest: Digest) -> Option<Place> {
        self.state().tenants.get(&tenant)?.get(&digest).map(|known| known.place)
    }

    /// Whether a blob is here that somebody wishes to store: it is as young as what is named next, so that
    /// no sweep takes it in between.
    pub(super) fn wish(&self, tenant: TenantId, digest: Digest) -> bool {
        let (mut state, now_s) = (self.state(), self.now_s());
        let known = state.tenants.get_mut(&tenant).and_then(|blobs| blobs.get_mut(&digest));
        known.map(|known| known.wished_s = now_s).is_some()
    }

    /// A blob is not there, if that is where it is believed to be.
    pub(super) fn forget(&self, tenant: TenantId, digest: Digest, place: Place) {
        let mut state = self.state();
        let Some(blobs) = state.tenants.get_mut(&tenant) else { return };
        if blobs.get(&digest).is_some_and(|known| known.place == place) {
            blobs.remove(&digest);
            state.take_from(place);
        }
    }

    /// Forgets what of a tenant is not named and was not wished for within `age`; how many.
    pub(super) fn sweep(&self, tenant: TenantId, named: &BTreeSet<Digest>, age: Duration) -> usize {
        let (mut state, now_s) = (self.state(), self.now_s());
        let Some(blobs) = state.tenants.get_mut(&tenant) else { return 0 };
        let young = |known: &Known| u64::from(now_s - known.wished_s) < age.as_secs();
        let swept = blobs.extract_if(|digest, known| !named.contains(digest) && !young(known));
        let swept: Vec<Place> = swept.map(|(_, known)| known.place).collect();
        if blobs.is_empty() {
            state.tenants.remove(&tenant);
        }
        swept.iter().for_each(|&place| state.take_from(place));
        swept.len()
    }

    /// Closed packs of which less than half is known, the emptiest first.
    pub(super) fn hollow(&self) -> Vec<u32> {
        let state = self.state();
        let hollow =
            state.packs.iter().filter(|(_, pack)| pack.closed && pack.known * 2 < pack.all);
        let mut hollow: Vec<(u64, u32)> =
            hollow.map(|(&number, pack)| (pack.known, number)).collect();
        hollow.sort_unstable();
        hollow.into_iter().map(|(_, number)| number).collect()
    }

    /// The blobs of a pack.
    pub(super) fn of(&self, pack: u32) -> Vec<(TenantId, Digest, Place)> {
        let state = self.state();
        let all = state.tenants.iter().flat_map(|(&tenant, blobs)| {
            blobs.iter().map(move |(&digest, known)| (tenant, digest, known.place))
        });
        all.filter(|(.., place)| place.pack == pack).collect()
    }

    /// Whether no blob is in a pack; then it is forgotten.
    pub(super) fn let_go(&self, pack: u32) -> bool {
        let mut state = self.state();
        let empty = state.packs.get(&pack).is_some_and(|pack| pack.closed && pack.known == 0);
        if empty {
            state.packs.remove(&pack);
        }
        empty
    }

    fn now_s(&self) -> u32 {
        self.opened.elapsed().as_secs() as u32
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_| std::process::abort())
    }
}

impl State {
    fn take_from(&mut self, place: Place) {
        if let Some(pack) = self.packs.get_mut(&place.pack) {
            pack.known = pack.known.saturating_sub(place.takes());
        }
    }
}
