//! Opening the log: folds every record of every segment, in order, and decides what a bad record means.
//!
//! Invariant: a bad record is a torn tail only if nothing shows that it was ever synced: no data in a later segment, and no
//! valid record after it whose batch began after it. Then it was never acknowledged and is zeroed. Anything else is damage, and
//! the log is refused: better no replica than one that forgot what it had promised.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    OpenError, Options, Recovered, Torn,
    ledger::{Ledger, Place, Usage},
    record::{self, Found, Kind},
    segment::{self, FORMAT_VERSION, HEADER_BYTES, Header, Segment},
    tail::Position,
};

const HEADER: usize = HEADER_BYTES as usize;

/// Everything the commit thread starts from.
pub(super) struct Recovery {
    pub(super) ledgers: BTreeMap<u32, Ledger>,
    pub(super) usage: Usage,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    pub(super) position: Position,
    /// An empty segment after the current one.
    pub(super) spare: Option<Arc<Segment>>,
    /// Whether a mark of its own ends the log.
    pub(super) marked: bool,
    pub(super) report: Recovered,
}

/// Reads the log in `dir`, mends its tail, and leaves it ready to be continued.
pub(super) fn recover(dir: &Path, options: Options) -> Result<Recovery, OpenError> {
    let paths = list(dir)?;
    let mut scan = Scan { dir: dir.to_owned(), oldest: 1, ..Scan::default() };
    let last = paths.last_key_value().map(|(sequence, _)| *sequence);
    for (sequence, path) in paths {
        scan.file(sequence, path, Some(sequence) == last)?;
    }
    scan.check()?;
    scan.finish(options)
}

fn list(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, OpenError> {
    let mut paths = BTreeMap::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let Some(sequence) = segment::sequence(&path) else {
            return Err(damaged(&path, 0, "segment name is not a sequence number"));
        };
        paths.insert(sequence, path);
    }
    Ok(paths)
}

/// A segment that holds records.
struct Used {
    sequence: u64,
    end: usize,
    previous_end: u64,
    marked: bool,
    /// The last batch: the only bytes that may be in the page cache alone.
    batch: Vec<u8>,
}

/// Bytes after the last valid record.
struct Garbage {
    sequence: u64,
    path: PathBuf,
    offset: usize,
    end: usize,
    detail: &'static str,
}

#[derive(Default)]
struct Scan {
    dir: PathBuf,
    ledgers: BTreeMap<u32, Ledger>,
    usage: Usage,
    segments: BTreeMap<u64, Arc<Segment>>,
    oldest: u64,
    records: u64,
    /// The last segment with records.
    used: Option<Used>,
    /// The first segment without records.
    blank: Option<PathBuf>,
    garbage: Option<Garbage>,
    /// The last file, if its creation was cut short.
    unborn: Option<PathBuf>,
    previous: Option<u64>,
    missing: Option<u64>,
}

impl Scan {
    fn file(&mut self, sequence: u64, path: PathBuf, last: bool) -> Result<(), OpenError> {
        let bytes = fs::read(&path)?;
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            Err(_) if last && is_zero(bytes.get(HEADER..).unwrap_or_default()) => {
                self.unborn = Some(path);
                return Ok(());
            }
            Err(detail) => return Err(damaged(&path, 0, detail)),
        };
        if header.version != FORMAT_VERSION {
            return Err(OpenError::Version { file: path, version: header.version });
        }
        if header.sequence != sequence {
            return Err(damaged(&path, 16, "segment header names another sequence"));
        }
        if bytes.len() as u64 > u64::from(header.capacity) {
            let end = u64::from(header.capacity);
            return Err(damaged(&path, end, "segment is longer than its header says"));
        }
        if self.previous.is_some_and(|previous| previous + 1 != sequence) {
            self.missing = Some(sequence - 1);
        }
        let adjoins = self.previous.replace(sequence).is_some_and(|last| last + 1 == sequence);
        if is_zero(&bytes[HEADER..]) {
            self.blank.get_or_insert_with(|| path.clone());
        } else {
            self.data(&header, &path, &bytes, adjoins)?;
        }
        let segment = Segment::open(path, header, bytes.len() as u64)?;
        self.segments.insert(sequence, Arc::new(segment));
        Ok(())
    }

    fn data(
        &mut self,
        header: &Header,
        path: &Path,
        bytes: &[u8],
        adjoins: bool,
    ) -> Result<(), OpenError> {
        self.prove()?;
        let mut used = Used {
            sequence: header.sequence,
            end: HEADER,
            previous_end: 0,
            marked: false,
            batch: Vec::new(),
        };
        let mut batch_start = HEADER;
        let detail = loop {
            let found = match record::decode(&bytes[used.end..], header.seed(), used.end as u32) {
                Ok(found) => found,
                Err(detail) => break detail,
            };
            if used.end == HEADER {
                self.first(header.sequence, path, &found, adjoins)?;
                used.previous_end = found.head.term;
            }
            batch_start = found.batch_start as usize;
            used.marked = found.head.kind == Kind::Mark && batch_start == used.end;
            self.fold(header.sequence, used.end, &found);
            used.end += record::size(found.payload.len());
        };
        self.rest(header, path, bytes, used.end, detail)?;
        if used.end > HEADER {
            used.batch = bytes[batch_start.min(used.end)..used.end].to_vec();
            self.used = Some(used);
        } else {
            self.blank = Some(path.to_owned());
        }
        Ok(())
    }

    /// Data in a segment proves that all before it was synced.
    fn prove(&self) -> Result<(), OpenError> {
        if let Some(earlier) = &self.garbage {
            return Err(damaged(&earlier.path, earlier.offset as u64, earlier.detail));
        }
        if let Some(blank) = &self.blank {
            let detail = "segment is empty, but a later one holds records";
            return Err(damaged(blank, HEADER_BYTES, detail));
        }
        Ok(())
    }

    /// The first record of a segment says where the one before it ended: the check against a lost end of that one.
    fn first(
        &self,
        sequence: u64,
        path: &Path,
        found: &Found<'_>,
        adjoins: bool,
    ) -> Result<(), OpenError> {
        if found.head.kind != Kind::Mark {
            return Err(damaged(path, HEADER_BYTES, "segment does not begin with a mark"));
        }
        let Some(before) = self.used.as_ref().filter(|_| adjoins) else { return Ok(()) };
        if before.end as u64 != found.head.term {
            let file = segment::path(&self.dir, sequence - 1);
            return Err(damaged(&file, before.end as u64, "records at the end are gone"));
        }
        Ok(())
    }

    fn fold(&mut self, segment: u64, offset: usize, found: &Found<'_>) {
        self.records += 1;
        if found.head.kind == Kind::Mark {
            if found.head.index > self.oldest {
                self.oldest = found.head.index;
                for ledger in self.ledgers.values_mut() {
                    ledger.forget_before(self.oldest, &mut self.usage);
                }
            }
            return;
        }
        let place = Place { segment, offset: offset as u32, length: found.payload.len() as u32 };
        let ledger = self.ledgers.entry(found.head.group).or_default();
        ledger.apply(&found.head, found.payload, place, &mut self.usage);
    }

    /// Judges what follows the last valid record.
    fn rest(
        &mut self,
        header: &Header,
        path: &Path,
        bytes: &[u8],
        offset: usize,
        detail: &'static str,
    ) -> Result<(), OpenError> {
        if is_zero(&bytes[offset..]) {
            return Ok(());
        }
        let mut at = offset + 8;
        while let Some(start) = bytes.get(at..).and_then(record::batch_start) {
            let newer = start as usize > offset && start as usize <= at;
            if newer && record::decode(&bytes[at..], header.seed(), at as u32).is_ok() {
                return Err(damaged(path, offset as u64, detail));
            }
            at += 8;
        }
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(offset, |last| last + 1);
        let path = path.to_owned();
        self.garbage = Some(Garbage { sequence: header.sequence, path, offset, end, detail });
        Ok(())
    }

    fn check(&self) -> Result<(), OpenError> {
        let first = self.segments.first_key_value().map(|(sequence, _)| *sequence);
        let missing = match first {
            Some(first) if first > self.oldest => Some(first - 1),
            _ => self.missing.filter(|&missing| missing >= self.oldest),
        };
        if let Some(missing) = missing {
            return Err(damaged(&segment::path(&self.dir, missing), 0, "segment is missing"));
        }
        if let Some(path) = self.unborn.as_ref().filter(|_| self.unborn_is_detached()) {
            return Err(damaged(path, 0, "segment is damaged and those before it are missing"));
        }
        for (group, ledger) in &self.ledgers {
            if let Some((expected, found)) = ledger.gap() {
                return Err(OpenError::Gap { group: *group, expected, found });
            }
        }
        Ok(())
    }

    // A cut-short creation leaves the very first segment, or the one after the last.
    fn unborn_is_detached(&self) -> bool {
        let unborn = self.unborn.as_deref().and_then(segment::sequence);
        unborn != Some(self.previous.map_or(1, |previous| previous + 1))
    }

    fn finish(mut self, options: Options) -> Result<Recovery, OpenError> {
        self.mend()?;
        let position = self.position(options)?;
        let current = position.current.sequence;
        let spare = self.segments.remove(&(current + 1));
        for extra in self.segments.split_off(&(current + 1)).into_values() {
            fs::remove_file(&extra.path)?;
        }
        let live = self.segments.split_off(&self.oldest);
        for leftover in std::mem::replace(&mut self.segments, live).into_values() {
            fs::remove_file(&leftover.path)?;
        }
        segment::sync_dir(&self.dir)?;
        let report = self.report();
        Ok(Recovery {
            ledgers: self.ledgers,
            usage: self.usage,
            segments: self.segments,
            position,
            spare,
            marked: self.used.is_none_or(|used| used.marked),
            report,
        })
    }

    /// Zeroes the torn tail, and writes the last batch once more: after a crash its bytes may be in the page cache only, even
    /// marked clean by a sync that failed, and what we read we are about to act upon.
    fn mend(&self) -> io::Result<()> {
        if let Some(path) = &self.unborn {
            fs::remove_file(path)?;
        }
        if let Some(garbage) = &self.garbage
            && let Some(segment) = self.segments.get(&garbage.sequence)
        {
            let zeros = vec![0; garbage.end - garbage.offset];
            segment.write(&zeros, garbage.offset as u64)?;
            segment.sync()?;
        }
        if let Some(used) = &self.used
            && let Some(segment) = self.segments.get(&used.sequence)
        {
            segment.write(&used.batch, (used.end - used.batch.len()) as u64)?;
            segment.sync()?;
        }
        Ok(())
    }

    fn position(&mut self, options: Options) -> io::Result<Position> {
        let oldest = self.oldest;
        if let Some(used) = &self.used
            && let Some(current) = self.segments.get(&used.sequence).cloned()
        {
            let (end, previous_end) = (used.end as u64, used.previous_end);
            return Ok(Position { current, end, previous_end, oldest });
        }
        let current = match self.segments.first_key_value() {
            Some((_, blank)) => Arc::clone(blank),
            None => Arc::new(Segment::create(
                &self.dir,
                oldest,
                options.segment_bytes,
                options.first_bytes,
            )?),
        };
        self.segments.insert(current.sequence, Arc::clone(&current));
        Ok(Position { current, end: HEADER_BYTES, previous_end: 0, oldest })
    }

    fn report(&self) -> Recovered {
        let torn = self.garbage.as_ref().map(|garbage| Torn {
            file: garbage.path.clone(),
            offset: garbage.offset as u64,
            bytes: (garbage.end - garbage.offset) as u64,
        });
        let hosted = |ledger: &Ledger| ledger.state.get(&Kind::Host).map(|kept| kept.head.index);
        let groups = self
            .ledgers
            .iter()
            .filter_map(|(group, ledger)| Some((*group, hosted(ledger)?)))
            .collect();
        Recovered { groups, segments: self.segments.len(), records: self.records, torn }
    }
}

fn damaged(file: &Path, offset: u64, detail: &'static str) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), offset, detail }
}

// By comparison of pages: tens of MiB are checked at every start.
fn is_zero(bytes: &[u8]) -> bool {
    const PAGE: [u8; 4096] = [0; 4096];
    bytes.chunks(PAGE.len()).all(|page| page == &PAGE[..page.len()])
}
