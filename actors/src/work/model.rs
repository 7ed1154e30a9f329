//! Tasks by models of the registry: documents sorted by length before they are cut, each for the version
//! that it gets when it is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use protocol::GroupId;
use protocol::jobs::{Assignment, TASK_DOCUMENTS_MAX, TaskResult};
use protocol::models::ModelId;

use super::{CHUNKS_AT_ONCE, NotRun, Runner, SLOT_PAUSE, count, text};
use crate::cache::Scored;
use crate::documents::{self, Document};
use crate::models::{self, Key, Loaded};
use crate::slots::SlotError;
use crate::texts::Texts;

/// As many documents as fill it are sorted by length and given to a slot at a time: fewer would be
/// padded more.
const CHUNK_TIME: Duration = Duration::from_millis(300);
/// Bytes of text given to a slot at a time: it goes to another process in one piece.
const CHUNK_BYTES: usize = 2 << 20;

/// A document with its place in the task.
type Placed = (usize, String);
/// What became of it, and what made that.
type Done = (usize, Scored, Arc<Loaded>);

impl Runner {
    pub(super) async fn make_by(
        &self,
        model: ModelId,
        group: GroupId,
        task: Assignment,
        mut documents: Vec<Document>,
    ) -> Result<TaskResult, NotRun> {
        let chunks = cut(&mut documents, self.documents_at_once(model));
        let scores = chunks.into_iter().map(|chunk| self.score_chunk(model, task, chunk));
        let scored = futures::stream::iter(scores).buffer_unordered(CHUNKS_AT_ONCE);
        let scored: Vec<Vec<Done>> = scored.try_collect().await?;
        let mut scored: Vec<Done> = scored.into_iter().flatten().collect();
        scored.sort_unstable_by_key(|&(place, ..)| place);
        let mut result = TaskResult::none(task.input);
        let mut records = Vec::with_capacity(documents.len());
        for (document, (_, scored, by)) in documents.into_iter().zip(scored) {
            count(&mut result, &scored);
            records.push(by.maker().record(document.id, scored, task.attempt));
        }
        let output = self.inner.blobs.put(group, task.tenant, documents::lines(&records)).await;
        Ok(TaskResult { output: output.map_err(text)?, ..result })
    }

    /// As many as hold a slot for as long as a scan may wait, at the pace of the version that most get.
    fn documents_at_once(&self, model: ModelId) -> usize {
        let models = &self.inner.models;
        let key =
            models.choose(model, &[String::new()]).ok().and_then(|keys| keys.first().copied());
        let pace = key.and_then(|key| models.pace(key)).unwrap_or(Duration::from_millis(10));
        let most = CHUNK_TIME.as_micros() / pace.as_micros().max(1);
        (most as usize).clamp(1, TASK_DOCUMENTS_MAX as usize)
    }

    async fn score_chunk(
        &self,
        model: ModelId,
        task: Assignment,
        chunk: Vec<Placed>,
    ) -> Result<Vec<Done>, NotRun> {
        let count = chunk.len() as u32;
        // From here on the slots count them.
        if !self.change(task, |held| held.waiting = held.waiting.saturating_sub(count)) {
            return Err(NotRun::Unwanted);
        }
        let (places, texts): (Vec<usize>, Vec<String>) = chunk.into_iter().unzip();
        let keys = self.inner.models.choose(model, &texts).map_err(text)?;
        let mut by_version: BTreeMap<Key, Vec<Placed>> = BTreeMap::new();
        for (key, placed) in keys.into_iter().zip(places.into_iter().zip(texts)) {
            by_version.entry(key).or_default().push(placed);
        }
        let mut done = Vec::with_capacity(count as usize);
        for (key, placed) in by_version {
            let loaded = self.inner.models.ready(key).await.map_err(text)?;
            let (places, texts): (Vec<usize>, Vec<String>) = placed.into_iter().unzip();
            let scored = self.score_cached(task, &loaded, texts).await?;
            let by = |(place, scored)| (place, scored, Arc::clone(&loaded));
            done.extend(places.into_iter().zip(scored).map(by));
        }
        self.change(task, |held| held.left = held.left.saturating_sub(count));
        Ok(done)
    }

    async fn score_cached(
        &self,
        task: Assignment,
        model: &Arc<Loaded>,
        texts: Vec<String>,
    ) -> Result<Vec<Scored>, NotRun> {
        let names = self.names(task, model.identity())?;
        let compute = |texts: Texts| self.score_by(model, texts);
        let tell = |_| std::future::ready(());
        let texts = Texts::from(texts);
        self.inner.cache.score(&names, &texts, model.pace(), compute, tell).await.0
    }

    async fn score_by(
        &self,
        model: &Arc<Loaded>,
        texts: Texts,
    ) -> Result<Vec<models::Scored>, NotRun> {
        loop {
            match self.inner.slots.score(Arc::clone(model), texts.clone()).await {
                Ok(scored) => return Ok(scored),
                Err(SlotError::Overloaded) => tokio::time::sleep(SLOT_PAUSE).await,
                Err(SlotError::Ended) => return Err(NotRun::Ended),
                Err(error @ SlotError::NoModel(_)) => return Err(text(error)),
            }
        }
    }
}

/// The contents in chunks of like lengths, the shortest first: what runs together is padded to the longest.
fn cut(documents: &mut [Document], documents_max: usize) -> Vec<Vec<Placed>> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by_key(|&place| (documents[place].content.len(), place));
    let (mut chunks, mut bytes) = (vec![Vec::new()], 0);
    for place in order {
        let content = std::mem::take(&mut documents[place].content);
        let full = |chunk: &Vec<Placed>| {
            chunk.len() >= documents_max || !chunk.is_empty() && bytes + content.len() > CHUNK_BYTES
        };
        if chunks.last().is_none_or(full) {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += content.len();
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((place, content));
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lengths: &[usize], documents_max: usize, expected: &[&[usize]]) {
        let document =
            |&length: &usize| Document { id: String::new(), content: "x".repeat(length) };
        let mut documents: Vec<Document> = lengths.iter().map(document).collect();
        let chunks = cut(&mut documents, documents_max);
        let places: Vec<Vec<usize>> =
            chunks.iter().map(|chunk| chunk.iter().map(|&(place, _)| place).collect()).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn like_lengths_go_together_and_both_bounds_hold() {
        check(&[9, 1, 5, 1], 2, &[&[1, 3], &[2, 0]]);
        check(&[9, 1, 5, 1], 9, &[&[1, 3, 2, 0]]);
        check(&[CHUNK_BYTES, 4, CHUNK_BYTES - 4, CHUNK_BYTES + 9], 9, &[&[1, 2], &[0], &[3]]);
    }
}
