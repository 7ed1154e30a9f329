//! One look at the cache for many texts: here first, then one question to each node that the missing
//! ones belong to.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use protocol::{Digest, NodeId};
use tokio::time::Instant;

use super::flights::{Entered, Follower, Leader};
use super::memory::{ENTRY_BYTES_MAX, Entry, WORTH_DISK_US};
use super::names::Key;
use super::peers::{QUESTION_KEYS_MAX, Question, Word};
use super::{Cache, Computed};
use crate::clock;
use crate::figures::figures;

/// How long the disk may take.
pub(super) const DISK_TIMEOUT: Duration = Duration::from_millis(50);

/// The right to compute a text, if it was to be had; the flight ends with it.
pub(super) type Right = Option<Leader>;

/// Who computes a text that is waited for.
pub(super) enum Theirs {
    /// Another request of this node, or the same for an equal text.
    Here(Follower),
    /// A request of some node, as the node says that the name belongs to.
    There(NodeId, Right),
}

/// What is known of some texts, by their numbers.
#[derive(Default)]
pub(super) struct Look {
    pub(super) found: Vec<Option<Entry>>,
    pub(super) mine: (Vec<usize>, Vec<Right>),
    pub(super) theirs: Vec<(usize, Theirs)>,
}

impl Look {
    fn take(&mut self, number: usize, right: Right) {
        self.mine.0.push(number);
        self.mine.1.push(right);
    }
}

impl Cache {
    pub(super) async fn look(
        &self,
        named: &[(Digest, Key)],
        pace_us: u32,
        within: Duration,
    ) -> Look {
        let mut look = Look { found: vec![None; named.len()], ..Look::default() };
        let Some(memory) = &self.inner.memory else {
            look.mine = ((0..named.len()).collect(), Vec::new());
            return look;
        };
        let (now, until) = (clock::wall(), Instant::now() + within);
        let mut leads = Vec::new();
        for (number, (_, key)) in named.iter().enumerate() {
            if let Some(entry) = memory.get(key, now) {
                look.found[number] = Some(entry);
                continue;
            }
            match self.inner.flights.enter(*key, until) {
                Entered::Lead(leader) => leads.push((number, *key, Some(leader))),
                Entered::Follow(follower) => look.theirs.push((number, Theirs::Here(follower))),
                Entered::Full => look.take(number, None),
            }
        }
        let hits = look.found.iter().flatten().count();
        figures().cache.memory.inc_by(hits as u64);
        if !leads.is_empty() {
            self.look_further(&mut look, leads, pace_us >= WORTH_DISK_US, within).await;
        }
        look
    }

    /// Asks those that the names belong to.
    async fn look_further(
        &self,
        look: &mut Look,
        leads: Vec<(usize, Key, Right)>,
        on_disk: bool,
        within: Duration,
    ) {
        let nodes = self.nodes();
        let mut by_owner: BTreeMap<NodeId, Vec<(usize, Key, Right)>> = BTreeMap::new();
        for lead in leads {
            let owner = lead.1.owner(nodes.iter().copied()).unwrap_or(self.inner.me);
            by_owner.entry(owner).or_default().push(lead);
        }
        let asked = by_owner.into_iter().map(|(owner, leads)| async move {
            let keys: Vec<Key> = leads.iter().map(|(_, key, _)| *key).collect();
            let words = if owner != self.inner.me {
                self.ask_all(owner, &keys, on_disk, within).await
            } else if on_disk {
                let kept = self.kept(keys).await;
                kept.into_iter().map(|kept| kept.map_or(Word::Yours, Word::Here)).collect()
            } else {
                vec![Word::Yours; keys.len()]
            };
            (owner, leads, words)
        });
        for (owner, leads, words) in join_all(asked).await {
            let tier = &figures().cache;
            let tier = if owner == self.inner.me { &tier.disk } else { &tier.node };
            for ((number, key, right), word) in leads.into_iter().zip(words) {
                match word {
                    Word::Here(entry) => {
                        tier.inc();
                        self.remember(key, &entry);
                        look.found[number] = Some(entry);
                    }
                    Word::Yours => look.take(number, right),
                    Word::Busy => look.theirs.push((number, Theirs::There(owner, right))),
                }
            }
        }
    }

    /// Waits for what others compute; gives what is to be computed here all the same.
    pub(super) async fn follow(
        &self,
        named: &[(Digest, Key)],
        theirs: Vec<(usize, Theirs)>,
        within: Duration,
        found: &mut [Option<Entry>],
    ) -> (Vec<usize>, Vec<Right>) {
        let latest = Instant::now() + within;
        let waits = theirs.into_iter().map(|(number, theirs)| async move {
            let key = named[number].1;
            match theirs {
                Theirs::Here(follower) => {
                    follower.wait(latest).await;
                    (number, self.remembered(&key), None)
                }
                Theirs::There(owner, right) => {
                    let entry = self.wait(owner, key, within).await;
                    if let Some(entry) = &entry {
                        self.remember(key, entry);
                    }
                    (number, entry, right)
                }
            }
        });
        let (mut rest, mut rights) = (Vec::new(), Vec::new());
        for (number, entry, right) in join_all(waits).await {
            if entry.is_some() {
                figures().cache.flight.inc();
                found[number] = entry;
            } else {
                rest.push(number);
                rights.push(right);
            }
        }
        (rest, rights)
    }

    /// Gives results to this node's memory, and to the nodes that they belong to.
    pub(super) fn publish(&self, named: &[(Digest, Key)], computed: &[Computed]) {
        let nodes = self.nodes();
        let mut by_owner: BTreeMap<NodeId, Vec<(Key, Option<Entry>)>> = BTreeMap::new();
        for (number, result) in computed {
            let key = named[*number].1;
            let small = |entry: &&Entry| entry.bytes() <= ENTRY_BYTES_MAX;
            let entry = result.as_ref().ok().filter(small).cloned();
            if let Some(entry) = &entry {
                self.remember(key, entry);
            }
            if let Some(owner) = key.owner(nodes.iter().copied()) {
                by_owner.entry(owner).or_default().push((key, entry));
            }
        }
        for (owner, entries) in by_owner {
            if owner == self.inner.me {
                self.keep(entries);
            } else {
                self.hand_over(owner, entries);
            }
        }
    }

    /// Results that this node's disk has; what is found is in memory from then on.
    pub(super) async fn kept(&self, keys: Vec<Key>) -> Vec<Option<Entry>> {
        let Some(disk) = &self.inner.disk else { return vec![None; keys.len()] };
        let now = clock::wall();
        let found = disk.get(keys.clone(), DISK_TIMEOUT).await;
        let fresh = |entry: &Entry| entry.is_fresh(now, self.inner.ttl);
        let found: Vec<_> = found.into_iter().map(|entry| entry.filter(fresh)).collect();
        for (key, entry) in keys.into_iter().zip(&found) {
            if let Some(entry) = entry {
                self.remember(key, entry);
            }
        }
        found
    }

    /// Notes on disk what belongs to this node and is worth it.
    pub(super) fn keep(&self, entries: Vec<(Key, Option<Entry>)>) {
        let worth = |entry: &Entry| entry.pace_us >= WORTH_DISK_US;
        let made = |(key, entry): (Key, Option<Entry>)| Some((key, entry.filter(worth)?));
        let entries: Vec<_> = entries.into_iter().filter_map(made).collect();
        if let Some(disk) = self.inner.disk.as_ref().filter(|_| !entries.is_empty()) {
            disk.put(entries);
        }
    }

    pub(super) fn remember(&self, key: Key, entry: &Entry) {
        if let Some(memory) = &self.inner.memory {
            memory.put(key, entry.clone());
        }
    }

    pub(super) fn remembered(&self, key: &Key) -> Option<Entry> {
        self.inner.memory.as_ref()?.get(key, clock::wall())
    }

    /// The nodes that names belong to: those that take work, as this one sees them.
    fn nodes(&self) -> Vec<NodeId> {
        let nodes = self.inner.workers.working();
        if nodes.is_empty() { vec![self.inner.me] } else { nodes }
    }

    async fn ask_all(
        &self,
        owner: NodeId,
        keys: &[Key],
        on_disk: bool,
        within: Duration,
    ) -> Vec<Word> {
        let asked = keys.chunks(QUESTION_KEYS_MAX).map(|keys| async move {
            let question = Question::new(keys.to_vec(), on_disk, within, Duration::ZERO);
            let words = self.ask(owner, question).await;
            // One that says nothing in time holds nobody up.
            words.unwrap_or_else(|| keys.iter().map(|_| Word::Yours).collect())
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Waits until a node has the result of another, or that is not to come.
    async fn wait(&self, owner: NodeId, key: Key, within: Duration) -> Option<Entry> {
        // Without a place nothing is waited for.
        let _place = self.inner.waits.try_acquire().ok()?;
        // It was not on disk a moment ago.
        let question = Question::new(vec![key], false, within, within);
        match self.ask(owner, question).await?.pop()? {
            Word::Here(entry) => Some(entry),
            Word::Yours | Word::Busy => None,
        }
    }
}
