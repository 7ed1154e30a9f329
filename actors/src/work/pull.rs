//! Fetches tasks: when this node has room and a coordinator has tasks that nobody runs, it is asked
//! for some. Invariant: it wakes for a word, an answer or an end, and never looks by the clock while
//! nothing waits.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use protocol::peer::{Answer, Ask, Waiting};
use protocol::{GroupId, NodeId};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Runner;
use super::credit::{Turns, comes_too_late};
use crate::ask::Answered;
use crate::jobs::Load;

/// How long an owner that does not answer keeps room from others. What it then gives all the same
/// is taken.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is on its way.
struct Pull {
    runner: Runner,
    turns: Turns,
    /// What each shard was asked for; one question at a time.
    asked: BTreeMap<GroupId, Asked>,
    asks: FuturesUnordered<BoxFuture<'static, (GroupId, Answered)>>,
}

#[derive(Clone, Copy)]
struct Asked {
    tasks: usize,
    at: Instant,
    /// Of the tenants that waited there then.
    weight: u64,
}

/// Until the process ends.
pub(super) async fn run(runner: Runner) {
    let board = runner.inner.workers.board().clone();
    let (asked, asks) = (BTreeMap::new(), FuturesUnordered::new());
    let mut pull = Pull { runner, turns: Turns::default(), asked, asks };
    loop {
        let impatient = pull.impatient();
        tokio::select! {
            () = board.stirred() => {}
            Some((group, answered)) = pull.asks.next(), if !pull.asks.is_empty() => {
                pull.answered(group, answered);
            }
            () = sleep_until(impatient.unwrap_or_else(Instant::now)), if impatient.is_some() => {}
        }
        pull.ask();
    }
}

impl Pull {
    /// When the next owner has had time enough.
    fn impatient(&self) -> Option<Instant> {
        let due = self.asked.values().map(|asked| asked.at + PATIENCE);
        due.filter(|due| *due > Instant::now()).min()
    }

    fn ask(&mut self) {
        let board = self.runner.inner.workers.board();
        let waiting = board.waiting();
        if waiting.is_empty() || !self.helps(&waiting) {
            return;
        }
        let on_the_way = self.asked.values().filter(|asked| asked.at.elapsed() < PATIENCE);
        let room = self.runner.room(on_the_way.map(|asked| asked.tasks).sum());
        if room == 0 {
            return;
        }
        let me = self.runner.inner.me;
        // Nodes start at different shards, so that they do not all ask the same one.
        let distance = |group: GroupId| u64::from(group.0).wrapping_sub(me.node.0) % 1024;
        let near = |group| if board.is_own(group) { 0 } else { 1 + distance(group) };
        let open = |group: &GroupId| !self.asked.contains_key(group);
        for (group, tasks) in self.turns.divide(&waiting, room, open, near) {
            let weight = waiting.get(&group).map_or(1, |waiting| waiting.weight);
            self.asked.insert(group, Asked { tasks: tasks as usize, at: Instant::now(), weight });
            let router = self.runner.inner.router.clone();
            self.asks.push(Box::pin(async move {
                let ask = Ask::Take { worker: me, tasks };
                (group, router.ask(group, ask).await.answered)
            }));
        }
    }

    /// Whether this node takes work, and what it does of it is done sooner than by others.
    fn helps(&self, waiting: &BTreeMap<GroupId, Waiting>) -> bool {
        let inner = &self.runner.inner;
        let mut loads: BTreeMap<NodeId, Load> = inner.workers.loads();
        if !loads.remove(&inner.me.node).is_some_and(|load| load.works()) {
            return false;
        }
        let others: Vec<Load> = loads.into_values().filter(Load::works).collect();
        let all = waiting.values().fold(Waiting::default(), |all, more| Waiting {
            tasks: all.tasks + more.tasks,
            documents: all.documents + more.documents,
            weight: all.weight + more.weight,
        });
        !comes_too_late(inner.slots.pace(), &others, all)
    }

    fn answered(&mut self, group: GroupId, answered: Answered) {
        let asked = self.asked.remove(&group);
        let board = self.runner.inner.workers.board();
        match answered {
            Ok(Answer::Tasks(tasks, left)) => {
                board.correct(group, left);
                if let Some(asked) = asked.filter(|_| !tasks.is_empty()) {
                    self.runner.inner.lead.asked(asked.at.elapsed());
                }
                let documents = tasks.iter().map(|task| u64::from(task.documents)).sum();
                self.turns.had(group, documents, asked.map_or(1, |asked| asked.weight));
                tasks.into_iter().for_each(|task| self.runner.take(task));
            }
            Ok(_) => board.correct(group, Waiting::default()),
            Err(error) => {
                debug!(%group, %error, "no tasks to be had");
                // Until its next word, so that it is not asked over and over.
                board.correct(group, Waiting::default());
            }
        }
    }
}
