//! A version that is loaded: processes for the slots, and what is known of documents that break it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use protocol::models::Version;
use protocol::{Digest, Name};
use tracing::warn;

use super::{Key, locked};
use crate::blobs::sha256;
use crate::documents::Maker;
use crate::figures::figures;
use crate::inference::ModelIdentity;
use crate::inference::process::{Broken, Launch, Process};
use crate::slots::Pace;

/// Documents that ended a process and are remembered, so that they do it once on this node.
const POISON_MAX: usize = 1_024;

/// What became of one document.
pub type Scored = Result<Vec<f32>, String>;

/// A version on this node.
#[derive(Debug)]
pub struct Loaded {
    key: Key,
    identity: ModelIdentity,
    maker: Maker,
    launch: Launch,
    dir: PathBuf,
    /// Processes that do nothing. A slot takes one for a batch.
    idle: Mutex<Vec<Process>>,
    processes: usize,
    bytes: u64,
    poison: Mutex<Poison>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Poison {
    reasons: BTreeMap<Digest, String>,
    order: VecDeque<Digest>,
}

impl Loaded {
    pub(super) fn new(
        key: Key,
        name: &Name,
        version: &Version,
        launch: Launch,
        dir: PathBuf,
        processes: Vec<Process>,
    ) -> Option<Self> {
        let (engine, engine_version) = processes.first()?.engine();
        let identity = ModelIdentity {
            name: name.to_string(),
            version: key.1.to_string(),
            sha256: version.artefact.sha256.to_string(),
            engine: engine.to_owned(),
            engine_version: engine_version.to_owned(),
            precision: version.precision.to_string(),
        };
        Some(Self {
            key,
            maker: Maker::new(&identity).labelled(&version.labels),
            identity,
            launch,
            dir,
            bytes: processes.iter().map(Process::bytes).sum(),
            processes: processes.len(),
            idle: Mutex::new(processes),
            poison: Mutex::default(),
            pace: Pace::first(Duration::ZERO),
        })
    }

    /// Model and number.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// What every result names.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// The same as its results show it.
    pub(crate) fn maker(&self) -> &Maker {
        &self.maker
    }

    /// Memory of its processes when they do nothing.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long a document takes.
    #[must_use]
    pub fn pace(&self) -> Duration {
        self.pace.get()
    }

    /// Scores documents on the thread of a slot: all at once, and when that breaks, one by one, so that a
    /// bad document fails alone, at its second attempt. An error is one of no document.
    pub(crate) fn score(&self, texts: &[&str]) -> Result<Vec<Scored>, String> {
        let began = Instant::now();
        let scored = if locked(&self.poison).reasons.is_empty() {
            self.score_fine(texts)?
        } else {
            self.score_unknown(texts)?
        };
        self.pace.note(texts.len(), began.elapsed());
        let done = scored.iter().filter(|scored| scored.is_ok()).count();
        let (name, version) = (&self.identity.name, &self.identity.version);
        figures().models.scored(name, version, done as u64, (texts.len() - done) as u64);
        Ok(scored)
    }

    /// The same without the documents that are known to break the version.
    fn score_unknown(&self, texts: &[&str]) -> Result<Vec<Scored>, String> {
        let known: Vec<Option<String>> = texts.iter().map(|text| self.known(text)).collect();
        let fine: Vec<&str> =
            texts.iter().zip(&known).filter(|(_, known)| known.is_none()).map(first).collect();
        let mut scored = self.score_fine(&fine)?.into_iter();
        let merged = known.into_iter().map(|known| match known {
            Some(why) => Err(why),
            None => scored.next().unwrap_or_else(|| Err("not scored".to_owned())),
        });
        Ok(merged.collect())
    }

    fn score_fine(&self, texts: &[&str]) -> Result<Vec<Scored>, String> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        match self.attempt(texts)? {
            Ok(scores) => Ok(scores.into_iter().map(Ok).collect()),
            Err(broken) => {
                warn!(model = %self.identity.name, version = self.key.1, documents = texts.len(), ?broken, "batch not scored");
                texts.iter().map(|text| self.alone(text)).collect()
            }
        }
    }

    fn alone(&self, text: &str) -> Result<Scored, String> {
        let broken = match self.attempt(&[text])? {
            Ok(mut scores) => return Ok(scores.pop().ok_or_else(|| "not scored".to_owned())),
            Err(broken) => broken,
        };
        Ok(Err(match broken {
            Broken::Refused(why) => why,
            Broken::Ended(why) => {
                let why = format!("document {why}");
                self.remember(text, &why);
                why
            }
        }))
    }

    fn attempt(&self, texts: &[&str]) -> Result<Result<Vec<Vec<f32>>, Broken>, String> {
        let idle = locked(&self.idle).pop();
        let mut process = match idle {
            Some(process) => process,
            None => Process::start(&self.launch, &self.dir)?,
        };
        let scored = process.score(texts);
        // One that has ended is not put back: whoever needs it makes another.
        if matches!(scored, Err(Broken::Ended(_))) {
            figures().models.process_lost(&self.identity.name, &self.identity.version);
        } else {
            let mut idle = locked(&self.idle);
            if idle.len() < self.processes {
                idle.push(process);
            }
        }
        Ok(scored)
    }

    fn known(&self, text: &str) -> Option<String> {
        locked(&self.poison).reasons.get(&sha256(text.as_bytes())).cloned()
    }

    fn remember(&self, text: &str, why: &str) {
        let digest = sha256(text.as_bytes());
        let mut poison = locked(&self.poison);
        if poison.reasons.insert(digest, why.to_owned()).is_none() {
            poison.order.push_back(digest);
        }
        if poison.order.len() > POISON_MAX
            && let Some(oldest) = poison.order.pop_front()
        {
            poison.reasons.remove(&oldest);
        }
    }
}

fn first<'a, T>((text, _): (&&'a str, T)) -> &'a str {
    text
}
