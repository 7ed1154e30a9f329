//! The passes of a node, by the digest of their keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use protocol::Digest;

use super::pass::Pass;
use super::terms::Terms;

/// Passes of one node, at most; beyond it those that were not used for longest go first.
pub(super) const PASSES_MAX: usize = 200_000;
/// Locks that the passes are divided over.
const PARTS: usize = 64;

/// Terms that passes share. Passes with terms beyond that have their own.
const TERMS_MAX: usize = 1_024;

/// A digest is evenly distributed: eight bytes of it are as good as any hash.
#[derive(Debug, Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Of no key here: these are numbers.
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// By the first eight bytes of the digest, so that the maps stay near the processor; the pass has the
/// rest. Of two that agree in these the later one stays.
type Part = HashMap<u64, Arc<Pass>, BuildHasherDefault<Itself>>;

fn first_bytes(digest: &Digest) -> u64 {
    u64::from_le_bytes(*digest.0.first_chunk().unwrap_or(&[0; 8]))
}

/// The table. Its locks are held for a look-up or a walk, never across an await.
#[derive(Debug)]
pub(super) struct Table {
    parts: Vec<RwLock<Part>>,
    /// Counts removals: a view that was asked for before one is not taken in after it.
    fence: AtomicU64,
    /// Passes that made room for others, until somebody gives back what they hold.
    evicted: Mutex<Vec<Arc<Pass>>>,
    terms: Mutex<HashMap<Box<str>, Arc<Terms>>>,
}

impl Default for Table {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| RwLock::default()).collect();
        Self { parts, fence: AtomicU64::new(0), evicted: Mutex::default(), terms: Mutex::default() }
    }
}

impl Table {
    fn part(&self, digest: &Digest) -> &RwLock<Part> {
        // Another byte than those that the map hashes by.
        &self.parts[usize::from(digest.0[31]) % PARTS]
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Pass>> {
        self.with(digest, Arc::clone)
    }

    /// Does something with a pass where it lies: to count that it is held would write to one more line of
    /// memory. The table is locked against changes meanwhile.
    pub(super) fn with<R>(&self, digest: &Digest, act: impl FnOnce(&Arc<Pass>) -> R) -> Option<R> {
        let part = self.part(digest).read().unwrap_or_else(|_| std::process::abort());
        part.get(&first_bytes(digest)).filter(|pass| pass.digest == *digest).map(act)
    }

    /// The same terms for all passes that have equal ones: most tenants have the limits of one of few
    /// plans.
    pub(super) fn share(&self, terms: Terms) -> Arc<Terms> {
        let mut shared = self.terms.lock().unwrap_or_else(|_| std::process::abort());
        if let Some(equal) = shared.get(&terms.text) {
            return Arc::clone(equal);
        }
        if shared.len() >= TERMS_MAX {
            shared.retain(|_, terms| Arc::strong_count(terms) > 1);
        }
        let terms = Arc::new(terms);
        if shared.len() < TERMS_MAX {
            shared.insert(terms.text.clone(), Arc::clone(&terms));
        }
        terms
    }

    /// What [`Self::insert`] compares with.
    pub(super) fn fence(&self) -> u64 {
        self.fence.load(Ordering::SeqCst)
    }

    /// Takes a pass in and returns it, or the one that was fetched by somebody else meanwhile; none
    /// when something was removed since `fence`.
    pub(super) fn insert(&self, fence: u64, pass: Arc<Pass>) -> Option<Arc<Pass>> {
        let number = first_bytes(&pass.digest);
        let mut part = self.part(&pass.digest).write().unwrap_or_else(|_| std::process::abort());
        if self.fence() != fence {
            return None;
        }
        let now_us = crate::clock::boot_us();
        let same = |other: &&Arc<Pass>| other.digest == pass.digest && other.holds(now_us);
        if let Some(other) = part.get(&number).filter(same) {
            return Some(Arc::clone(other));
        }
        if part.len() >= PASSES_MAX / PARTS {
            self.evict(evict(&mut part));
        }
        self.evict(part.insert(number, Arc::clone(&pass)));
        Some(pass)
    }

    fn evict(&self, passes: impl IntoIterator<Item = Arc<Pass>>) {
        self.evicted().extend(passes.into_iter().inspect(|pass| pass.kill()));
    }

    fn evicted(&self) -> MutexGuard<'_, Vec<Arc<Pass>>> {
        self.evicted.lock().unwrap_or_else(|_| std::process::abort())
    }

    /// Passes that are in the table no more, to be ended.
    pub(super) fn take_evicted(&self) -> Vec<Arc<Pass>> {
        std::mem::take(&mut *self.evicted())
    }

    /// Removes passes and returns them. A pass that is taken in while this runs was asked for
    /// after the fence was raised, or is seen by the walk.
    pub(super) fn remove(&self, gone: impl Fn(&Pass) -> bool) -> Vec<Arc<Pass>> {
        self.fence.fetch_add(1, Ordering::SeqCst);
        let mut removed = Vec::new();
        for part in &self.parts {
            let mut part = part.write().unwrap_or_else(|_| std::process::abort());
            part.retain(|_, pass| {
                let goes = gone(pass);
                if goes {
                    removed.push(Arc::clone(pass));
                }
                !goes
            });
        }
        removed
    }

    /// Removes passes that were not used for a while. Nothing is called back by it.
    pub(super) fn forget(&self, gone: impl Fn(&Pass) -> bool) -> Vec<Arc<Pass>> {
        let mut removed = Vec::new();
        for part in &self.parts {
            let mut part = part.write().unwrap_or_else(|_| std::process::abort());
            removed.extend(part.extract_if(|_, pass| gone(pass)).map(|(_, pass)| pass));
        }
        removed
    }

    pub(super) fn find(&self, wanted: impl Fn(&Pass) -> bool) -> Vec<Arc<Pass>> {
        let mut found = Vec::new();
        for part in &self.parts {
            let part = part.read().unwrap_or_else(|_| std::process::abort());
            found.extend(part.values().filter(|pass| wanted(pass)).cloned());
        }
        found
    }

    pub(super) fn len(&self) -> usize {
        let len = |part: &RwLock<Part>| part.read().unwrap_or_else(|_| std::process::abort()).len();
        self.parts.iter().map(len).sum()
    }
}

/// Makes room: the half that was used longest ago goes.
fn evict(part: &mut Part) -> Vec<Arc<Pass>> {
    let now_us = crate::clock::boot_us();
    let mut idle: Vec<_> = part.values().map(|pass| pass.idle_for(now_us)).collect();
    let middle = idle.len() / 2;
    let (_, median, _) = idle.select_nth_unstable(middle);
    let median = *median;
    part.extract_if(|_, pass| pass.idle_for(now_us) >= median).map(|(_, pass)| pass).collect()
}
