//! Results of texts that were scored before: in memory, on the node that a name belongs to, on its
//! disk. Invariants: a result is found under the name of the tenant, the text, the model and the code
//! that made it, and under no other; a cache that is slow, lost or broken costs time within a bound and
//! fails nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::join;
use protocol::usage::Cached;
use protocol::{Digest, NodeId};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::clock;
use crate::documents;
use crate::figures::figures;
use crate::jobs::Workers;
use crate::remote::PeerTransport;
use crate::texts::Texts;

mod disk;
mod flights;
mod look;
mod memory;
mod names;
mod peers;

use disk::Disk;
use flights::Flights;
use look::Right;
use memory::Memory;
pub use memory::{Entry, Made};
use names::Key;
pub use names::{Names, Whose};
pub(crate) use peers::KIND_CACHE;

/// What a node may take for one text, however slow it is believed to be, before another may try.
const FLIGHT_MAX: Duration = Duration::from_secs(10);
/// What it may take beyond twice what it is expected to.
const FLIGHT_SLACK: Duration = Duration::from_millis(500);
/// Questions of this node, and of others here, that wait for a result which is being computed.
const WAITS_MAX: usize = 64;

/// How the cache is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of results in memory; 0: nothing is cached.
    pub memory_bytes: u64,
    /// Of results on disk; 0: none are.
    pub disk_bytes: u64,
    /// How old a result may be.
    pub ttl: Duration,
    /// Where the disk's are. May be deleted at any time.
    pub dir: PathBuf,
}

/// The cache of a node. Clones are the same.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    /// `None` caches nothing.
    memory: Option<Memory>,
    disk: Option<Disk>,
    ttl: Duration,
    flights: Flights,
    workers: Workers,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    /// Nodes that did not answer in time, and until when they are not asked.
    slow: Mutex<BTreeMap<NodeId, Instant>>,
    waits: Semaphore,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cache of {}", self.inner.me)
    }
}

/// One text and what it scored.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Of the text.
    pub sha256: Digest,
    pub result: Result<Entry, String>,
    /// Whether nothing was computed for it.
    pub cached: bool,
}

/// What is to be metered of some texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub cached: Cached,
    /// Words of all of them.
    pub words: u64,
}

/// A text that was computed, by its number.
type Computed = (usize, Result<Entry, String>);

impl Cache {
    /// A cache that knows no other node yet.
    pub fn start(me: NodeId, settings: Settings, workers: Workers) -> std::io::Result<Self> {
        let Settings { memory_bytes, disk_bytes, ttl, dir } = settings;
        let memory = (memory_bytes > 0).then(|| Memory::new(memory_bytes, ttl));
        let disk = match memory.is_some() && disk_bytes > 0 {
            true => Some(Disk::start(dir, disk_bytes)?),
            false => None,
        };
        let inner = Inner {
            me,
            memory,
            disk,
            ttl,
            flights: Flights::default(),
            workers,
            transport: OnceLock::new(),
            slow: Mutex::default(),
            waits: Semaphore::new(WAITS_MAX),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    /// Bytes of results in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.memory.as_ref().map_or(0, Memory::bytes)
    }

    /// Finds what is known of some texts and computes the rest; what another computes meanwhile is
    /// waited for. `tell` is told what is to be metered as soon as that is certain, and runs while the
    /// rest is computed. `pace` is about what one text takes.
    pub async fn score<E, C, T, M>(
        &self,
        names: &Names,
        texts: &Texts,
        pace: Duration,
        compute: impl Fn(Texts) -> C,
        tell: impl FnOnce(Tally) -> T,
    ) -> (Result<Vec<Scored>, E>, T::Output)
    where
        C: Future<Output = Result<Vec<Result<M, String>>, E>>,
        T: Future,
        M: Into<Made>,
    {
        let named: Vec<(Digest, Key)> = texts.iter().map(|text| names.name(text)).collect();
        let within = (pace * 2 * named.len() as u32 + FLIGHT_SLACK).min(FLIGHT_MAX);
        let pace_us = u32::try_from(pace.as_micros()).unwrap_or(u32::MAX);
        let look = self.look(&named, pace_us, within).await;
        let (mut found, mine, theirs) = (look.found, look.mine, look.theirs);
        let asked = Asked { named: &named, texts, words: &words(texts, &found), pace_us };
        let first = self.compute(asked, mine, &compute);
        let second = async {
            // While the first part is computed: others may wait for it who compute what is waited for here.
            let rest = self.follow(&named, theirs, within, &mut found).await;
            let cached = found.iter().map(Option::is_some).collect();
            let told = tell(Tally { words: asked.words.iter().sum(), cached });
            let rest = self.compute(asked, rest, &compute);
            let (rest, told) = join(rest, told).await;
            (found, rest, told)
        };
        let (first, (found, rest, told)) = join(first, second).await;
        let computed = first.and_then(|first| Ok((first, rest?)));
        let scored =
            computed.map(|(first, rest)| gather(&named, found, first.into_iter().chain(rest)));
        (scored, told)
    }

    /// Computes texts and gives everybody their results.
    async fn compute<E, C, M>(
        &self,
        asked: Asked<'_>,
        (numbers, rights): (Vec<usize>, Vec<Right>),
        compute: &impl Fn(Texts) -> C,
    ) -> Result<Vec<Computed>, E>
    where
        C: Future<Output = Result<Vec<Result<M, String>>, E>>,
        M: Into<Made>,
    {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let Asked { named, texts, words, pace_us } = asked;
        let chosen = texts.choose(&numbers);
        let made = match compute(chosen).await {
            Ok(made) => made,
            Err(error) => {
                // Whoever waits for these need not wait for the end of their time.
                let none = |number| (number, Err(String::new()));
                self.publish(named, &numbers.into_iter().map(none).collect::<Vec<_>>());
                return Err(error);
            }
        };
        let made_at = clock::wall();
        let computed = numbers.into_iter().zip(made).map(|(number, scored)| {
            let words = words[number];
            (number, scored.map(|made| Entry { made: made.into(), words, pace_us, made_at }))
        });
        let computed: Vec<Computed> = computed.collect();
        figures().cache.misses.inc_by(computed.len() as u64);
        self.publish(named, &computed);
        // Whoever follows finds it now.
        drop(rights);
        Ok(computed)
    }
}

/// Texts that are looked for, what is known of each, and about what one takes.
#[derive(Clone, Copy)]
struct Asked<'a> {
    named: &'a [(Digest, Key)],
    texts: &'a Texts,
    words: &'a [u64],
    pace_us: u32,
}

/// Words of each text; those of one that was found have been counted.
fn words(texts: &Texts, found: &[Option<Entry>]) -> Vec<u64> {
    let words = texts.iter().zip(found).map(|(text, found)| match found {
        Some(entry) => entry.words,
        None => documents::words(text),
    });
    words.collect()
}

fn gather(
    named: &[(Digest, Key)],
    found: Vec<Option<Entry>>,
    computed: impl Iterator<Item = Computed>,
) -> Vec<Scored> {
    let missing = || Err("there is no result for this document".to_owned());
    let mut scored: Vec<Scored> = named
        .iter()
        .zip(found)
        .map(|(&(sha256, _), found)| {
            let cached = found.is_some();
            Scored { sha256, result: found.map_or_else(missing, Ok), cached }
        })
        .collect();
    for (number, result) in computed {
        if let Some(scored) = scored.get_mut(number) {
            scored.result = result;
        }
    }
    scored
}

#[cfg(test)]
mod tests;
