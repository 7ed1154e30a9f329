//! openraft's side of a group's part of the write-ahead log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::vote::leader_id_std::CommittedLeaderId;
use protocol::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{LogEntry, LogId, TypeConfig, Vote};
use crate::wal;

/// Bytes that one read for replication returns, about: the frame of a request is bounded.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// The log of one group. Clones read the same log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    log: wal::GroupLog,
}

impl Log {
    pub(crate) fn new(log: wal::GroupLog) -> Self {
        Self { log }
    }

    /// Whether this build can read the newest entry. Versions never fall, so it can then read all.
    pub(crate) fn is_readable(&self) -> Result<(), io::Error> {
        let Some((_, index)) = self.log.last() else { return Ok(()) };
        for entry in self.entries(index, index + 1, usize::MAX)? {
            if let EntryPayload::Normal(payload) = entry.payload {
                codec::understand(&payload.0).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, io::Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let entries = self.log.read(from..to, bytes_max).map_err(io::Error::other)?;
        entries.into_iter().map(read_entry).collect()
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (from, to) = bounds(&range);
        self.entries(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.entries(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.vote().map(|bytes| read(&bytes)).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let purged = self.log.purged().map(|at| read::<LogId>(&at.payload)).transpose()?;
        let last = self.log.last().map(|(term, index)| log_id(term, index));
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(write(vote)?).await.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(write(&committed)?).await.map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.committed().map_or(Ok(None), |bytes| read(&bytes))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Result<Vec<_>, _> = entries.into_iter().map(write_entry).collect();
        // The log ends the process when a sync fails, so there is no other outcome to report.
        let done = move || callback.io_completed(Ok(()));
        self.log.append(entries?, done).await.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index + 1);
        self.log.truncate_from(from).await.map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log
            .purge_to(upto.committed_leader_id().term, upto.index, write(&upto)?)
            .await
            .map_err(io::Error::other)
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

fn write_entry(entry: LogEntry) -> Result<wal::Entry, io::Error> {
    let id = entry.log_id();
    let payload = write(&entry.payload)?;
    Ok(wal::Entry { term: id.committed_leader_id().term, index: id.index, payload })
}

fn read_entry(entry: wal::Entry) -> Result<LogEntry, io::Error> {
    let payload: EntryPayload<_, _, _> = read(&entry.payload)?;
    Ok(LogEntry::new(log_id(entry.term, entry.index), payload))
}

fn write<T: Serialize>(value: &T) -> Result<Bytes, io::Error> {
    codec::encode(value).map(Bytes::from).map_err(io::Error::other)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, io::Error> {
    codec::decode(bytes).map_err(io::Error::other)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&from) => from,
        Bound::Excluded(&before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&last) => last + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

#[cfg(test)]
mod tests {
    use protocol::codec::CodecError;

    use super::*;
    use crate::types::Payload;

    async fn append(log: &Log, index: u64, frame: Vec<u8>) {
        let payload = EntryPayload::Normal(Payload(Bytes::from(frame)));
        let entry = write_entry(LogEntry::new(log_id(1, index), payload)).unwrap();
        let (done, synced) = tokio::sync::oneshot::channel();
        let accepted = log.log.append(vec![entry], move || {
            // The test waits for it.
            let _ = done.send(());
        });
        accepted.await.unwrap();
        synced.await.unwrap();
    }

    #[tokio::test]
    async fn an_entry_of_a_newer_release_is_told_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = wal::Wal::open(dir.path()).unwrap();
        let log = Log::new(wal.group(1));
        log.log.host(1).await.unwrap();
        assert!(log.is_readable().is_ok(), "an empty log");
        append(&log, 1, codec::encode(&1u64).unwrap()).await;
        assert!(log.is_readable().is_ok());
        let mut frame = codec::encode(&2u64).unwrap();
        frame[0] += 1;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..1]), &frame[5..]);
        frame[1..5].copy_from_slice(&sum.to_le_bytes());
        append(&log, 2, frame).await;
        let error = log.is_readable().unwrap_err();
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<CodecError>());
        assert_eq!(cause, Some(&CodecError::Version { got: protocol::versions::FRAME + 1 }));
    }
}
