//! Reading entries back: from memory where they are recent, from their segment otherwise.
//!
//! Invariant: an entry is returned only if its checksum holds and it is the one that was asked for.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    Entry, Group, Table,
    ledger::{Place, Slot},
    locked,
    record::{self, Head, Kind},
    segment::Segment,
};

/// Bytes read from a segment at once, so that a run of small entries costs one system call.
const READ_AHEAD_BYTES: u64 = 128 << 10;

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The caller asked for entries that are purged, or never were.
    #[error("entry {index} of group {group} is not in the log, which begins at {first}")]
    Absent { group: u32, index: u64, first: u64 },
    /// The disk has lost what it was given: the replica has to be replaced.
    #[error("log segment {segment:016x} is damaged at {offset}: {detail}")]
    Damaged { segment: u64, offset: u32, detail: &'static str },
    /// The segment could not be read.
    #[error("log segment {segment:016x} cannot be read at {offset}")]
    Io { segment: u64, offset: u32, source: io::Error },
}

enum Source {
    Memory(u64, Bytes),
    Disk(Slot, Option<Arc<Segment>>),
}

/// Entries of `range`, as far as there are any: at least one if the first exists, then as many as fit into `bytes_max`.
pub(super) fn entries(
    table: &Table,
    group: &Group,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, ReadError> {
    let sources = locate(table, group, range.clone(), bytes_max)?;
    let mut reader = Reader::default();
    let mut entries = Vec::with_capacity(sources.len());
    for (source, index) in sources.into_iter().zip(range.start..) {
        entries.push(match source {
            Source::Memory(term, payload) => Entry { term, index, payload },
            Source::Disk(Slot { term, place }, segment) => {
                let head = Head { kind: Kind::Entry, group: group.id, term, index };
                let payload = reader.payload(segment.as_deref(), &head, place)?;
                Entry { term, index, payload }
            }
        });
    }
    Ok(entries)
}

// Segments are taken while the group is locked: a place in its ledger then still has its file, and an open file outlives its
// deletion.
fn locate(
    table: &Table,
    group: &Group,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Source>, ReadError> {
    let state = locked(&group.state);
    let (view, ledger) = (&state.view, &state.ledger);
    let absent = |index| ReadError::Absent { group: group.id, index, first: view.entries.start };
    let end = range.end.min(view.entries.end);
    if range.start < end && range.start < view.entries.start {
        return Err(absent(range.start));
    }
    let recent_from = view.recent_from();
    let mut sources: Vec<Source> = Vec::new();
    let mut last: Option<Arc<Segment>> = None;
    let mut bytes = 0;
    for index in range.start..end {
        let (source, length) = if index >= recent_from {
            let recent = &view.recent[(index - recent_from) as usize];
            (Source::Memory(recent.term, recent.payload.clone()), recent.payload.len())
        } else {
            let slot = *ledger.entries.get(&index).ok_or_else(|| absent(index))?;
            if last.as_ref().is_none_or(|last| last.sequence != slot.place.segment) {
                last = table.segment(slot.place.segment);
            }
            (Source::Disk(slot, last.clone()), slot.place.length as usize)
        };
        bytes += length;
        if bytes > bytes_max && !sources.is_empty() {
            break;
        }
        sources.push(source);
    }
    Ok(sources)
}

/// Reads records at known places, a window at a time.
#[derive(Debug, Default)]
pub(super) struct Reader {
    window: Vec<u8>,
    segment: u64,
    start: u64,
}

impl Reader {
    /// The payload of the record with this head at this place.
    pub(super) fn payload(
        &mut self,
        segment: Option<&Segment>,
        head: &Head,
        place: Place,
    ) -> Result<Bytes, ReadError> {
        let (sequence, offset) = (place.segment, place.offset);
        let damaged = |detail| ReadError::Damaged { segment: sequence, offset, detail };
        let segment = segment.ok_or_else(|| damaged("segment is gone"))?;
        self.load(segment, place).map_err(|source| ReadError::Io {
            segment: sequence,
            offset,
            source,
        })?;
        let at = (u64::from(offset) - self.start) as usize;
        let length = (place.end() - u64::from(offset)) as usize;
        let bytes = &self.window[at..at + length];
        let found = record::decode(bytes, segment.seed, offset).map_err(damaged)?;
        if found.head != *head {
            return Err(damaged("another record stands here"));
        }
        Ok(Bytes::copy_from_slice(found.payload))
    }

    fn load(&mut self, segment: &Segment, place: Place) -> io::Result<()> {
        let start = u64::from(place.offset);
        let end = place.end();
        let loaded = self.start..=self.start + self.window.len() as u64;
        if self.segment == segment.sequence && loaded.contains(&start) && loaded.contains(&end) {
            return Ok(());
        }
        let ahead = (start + READ_AHEAD_BYTES).min(segment.prepared());
        self.segment = segment.sequence;
        self.start = start;
        self.window.clear();
        self.window.resize((end.max(ahead) - start) as usize, 0);
        let read = segment.read(&mut self.window, start);
        if read.is_err() {
            self.window.clear();
        }
        read
    }
}
