//! Clients that ask at a steady rate, each request at most twice, and note how long they waited. What
//! was acknowledged is compared with what is there when they have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::jobs::NewJob;
use client::keys::NewKey;
use client::limits::Check;
use client::scan::Document;
use client::{Client, ClientError, Credential, Meta, Retry};
use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::checks;
use crate::history::Tally;
use crate::live::Live;
use crate::scenarios::Guest;

/// Requests per second of all clients together.
pub(crate) const RATE: u32 = 200;
/// As many tenants, so that every shard is asked.
const CLIENTS: u32 = 40;
/// Retries once, at the next node.
const ONCE_MORE: Retry = Retry {
    tries_max: 2,
    deadline: Duration::from_secs(10),
    pause: Duration::from_millis(50),
    pause_max: Duration::from_millis(50),
};
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Every so many requests of a client the same kind comes again.
const KINDS: u64 = 10;

/// The clients, at work.
pub(crate) struct Steady {
    urls: watch::Sender<Vec<String>>,
    stop: watch::Sender<bool>,
    board: Arc<Board>,
    clients: Vec<JoinHandle<Result<Done>>>,
}

/// What the clients saw since it was taken last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) answered: u64,
    /// Failed also when they were sent again.
    pub(crate) failed: Vec<String>,
    /// The longest that a client waited for an answer.
    pub(crate) longest: Duration,
    /// What it had asked, and whom first.
    pub(crate) longest_of: String,
}

#[derive(Default)]
struct Board(Mutex<Seen>);

/// One client at its end.
struct Done {
    guest: Guest,
    tally: Tally,
    keys: BTreeMap<u64, String>,
    jobs: BTreeSet<String>,
}

impl Steady {
    /// Makes the tenants, then all clients begin.
    pub(crate) async fn begin(live: &Live) -> Result<Steady> {
        let (urls, nodes) = watch::channel(live.cluster.urls());
        let (stop, stopped) = watch::channel(false);
        let board = Arc::new(Board::default());
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let guest = Guest::hire(live, &format!("steady {number}"), &[]).await?;
            let client = Asker {
                done: Done {
                    guest,
                    tally: Tally::default(),
                    keys: BTreeMap::new(),
                    jobs: BTreeSet::new(),
                },
                nodes: nodes.clone(),
                number: u64::from(number),
                made: 0,
            };
            let (stopped, board) = (stopped.clone(), Arc::clone(&board));
            clients.push(tokio::spawn(client.work(stopped, board)));
        }
        Ok(Steady { urls, stop, board, clients })
    }

    /// From now on these nodes are asked.
    pub(crate) fn ask(&self, urls: Vec<String>) {
        self.urls.send_replace(urls);
    }

    /// What was seen since the last look.
    pub(crate) fn look(&self) -> Seen {
        std::mem::take(&mut *self.board.seen())
    }

    /// All end; then what they were told is looked for. Gives what was checked.
    pub(crate) async fn end(self, live: &Live) -> Result<String> {
        self.stop.send_replace(true);
        let mut calls = 0;
        let (mut keys, mut jobs) = (0, 0);
        for done in try_join_all(self.clients).await? {
            let done = done?;
            keys += done.keys.len();
            jobs += done.jobs.len();
            calls += done.tally.acked.calls;
            let tenant = done.guest.id.clone();
            done.ensure_there(live).await.with_context(|| format!("tenant {tenant}"))?;
        }
        Ok(format!("{keys} keys, {jobs} jobs and {calls} billed calls, lost 0"))
    }
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Asker {
    done: Done,
    nodes: watch::Receiver<Vec<String>>,
    number: u64,
    made: u64,
}

impl Asker {
    async fn work(mut self, stopped: watch::Receiver<bool>, board: Arc<Board>) -> Result<Done> {
        let period = Duration::from_secs(1) * CLIENTS / RATE;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !*stopped.borrow() {
            ticks.tick().await;
            let urls = self.urls();
            let first = urls.first().cloned().unwrap_or_default();
            let client = self.client(urls)?;
            self.made += 1;
            let began = Instant::now();
            let asked = self.ask(&client).await;
            let took = began.elapsed();
            let mut seen = board.seen();
            if took > seen.longest {
                seen.longest = took;
                seen.longest_of = format!("{} at {first}", self.kind());
            }
            match asked {
                Ok(()) => seen.answered += 1,
                Err(error) => seen.failed.push(format!("after {took:.1?}: {error}")),
            }
        }
        Ok(self.done)
    }

    /// Another node is asked first each time.
    fn urls(&self) -> Vec<String> {
        let mut urls = self.nodes.borrow().clone();
        let turns = (self.number + self.made) as usize % urls.len();
        urls.rotate_left(turns);
        urls
    }

    fn kind(&self) -> &'static str {
        match (self.number + self.made) % KINDS {
            0 | 1 => "a key made",
            2..=4 => "a scan",
            5 => "a job submitted",
            6 | 7 => "usage read",
            _ => "a limit checked",
        }
    }

    fn client(&self, urls: Vec<String>) -> Result<Client, ClientError> {
        let client = Client::new(urls, Credential::key(&self.done.guest.key))?;
        Ok(client.with_retry(ONCE_MORE).with_timeout(ATTEMPT_TIMEOUT))
    }

    async fn ask(&mut self, client: &Client) -> Result<(), ClientError> {
        let once = client::fresh_key();
        match (self.number + self.made) % KINDS {
            0 | 1 => {
                let name = format!("key {}", self.made);
                let key = NewKey { name: name.clone(), ..NewKey::default() };
                let made = client.create_key(&key, &once).await?.body;
                self.done.keys.insert(made.key_id, name);
                Ok(())
            }
            2..=4 => {
                let text = format!("Note {} of {}: nothing new.", self.made, self.done.guest.id);
                let scanned = client.scan(&[Document::new("d", &text)], Some(&once)).await;
                self.note(scanned.map(|scanned| scanned.meta))
            }
            5 => {
                let documents = (0..2).map(|i| {
                    let text = format!("Part {i} of {} for {}.", self.made, self.done.guest.id);
                    Document::new(format!("d{i}"), text)
                });
                let job = NewJob::scan(documents.collect());
                let submitted = client.submit_job(&job, &once).await;
                if let Ok(job) = &submitted {
                    self.done.jobs.insert(job.body.id.clone());
                }
                self.note_of(2, submitted.map(|job| job.meta))
            }
            6 | 7 => client.usage().await.map(drop),
            _ => {
                let check = Check { units: 1, policy: None };
                client.check_limits(check, Some(&once)).await.map(drop)
            }
        }
    }

    fn note(&mut self, asked: Result<Meta, ClientError>) -> Result<(), ClientError> {
        self.note_of(1, asked)
    }

    fn note_of(
        &mut self,
        documents: u64,
        asked: Result<Meta, ClientError>,
    ) -> Result<(), ClientError> {
        match asked {
            Ok(meta) => {
                self.done.tally.ack(documents, &meta);
                Ok(())
            }
            Err(failure) => {
                self.done.tally.fail(documents, &failure);
                Err(failure)
            }
        }
    }
}

impl Done {
    /// Everything that was acknowledged is there, whole and billed once.
    async fn ensure_there(self, live: &Live) -> Result<()> {
        let alive: Vec<String> = (0..live.cluster.len())
            .filter(|i| live.cluster.is_alive(*i))
            .map(|i| live.cluster.url(i))
            .collect();
        let client = Client::new(alive, Credential::key(&self.guest.key))?;
        let jobs = checks::whole_jobs(&client).await?;
        let lost: Vec<_> = self.jobs.difference(&jobs).collect();
        ensure!(lost.is_empty(), "jobs are lost: {lost:?}");
        for job in &jobs {
            let results = client.job_results(job).await?;
            ensure!(results.body.len() == 2, "{} results of job {job}", results.body.len());
        }
        let rows = checks::pages(&client, "/v1/keys").await?;
        let found: BTreeMap<u64, &str> = rows
            .iter()
            .filter_map(|row| Some((row["key_id"].as_u64()?, row["name"].as_str()?)))
            .collect();
        let gone = self.keys.iter().find(|(id, name)| found.get(id) != Some(&name.as_str()));
        ensure!(gone.is_none(), "key {gone:?} is lost");
        checks::usage(&client, &self.tally).await.map(drop)
    }
}

impl Seen {
    /// `1200 answered, 0 failed, longest wait 210 ms (a scan at http://127.0.0.1:7700)`.
    pub(crate) fn told(&self) -> String {
        let longest = self.longest.as_millis();
        let (answered, failed) = (self.answered, self.failed.len());
        format!(
            "{answered} answered, {failed} failed, longest wait {longest} ms ({})",
            self.longest_of
        )
    }

    /// None failed; else the first of them.
    pub(crate) fn ensure_none_failed(&self) -> Result<()> {
        let first = self.failed.first().map_or("", String::as_str);
        ensure!(self.failed.is_empty(), "{} requests failed: {first}", self.failed.len());
        Ok(())
    }
}
