//! Bit flips, torn writes and lost files: what was synced is never silently dropped, what was not never stops a start.

use std::{fs, os::unix::fs::FileExt, path::Path, path::PathBuf, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    super::{
        OpenError, Options, Record, Wal,
        record::{self, Kind},
        recover::{Recovery, recover},
        segment::{HEADER_BYTES, Header},
    },
    append, crashed, directory, layout, open, roomy, run, segments, tell, tiny, until,
};

/// A log of three batches of three entries; its last record is the last of the third batch.
fn three_batches() -> TempDir {
    let dir = directory();
    let wal = open(&dir, roomy());
    for batch in 0..3 {
        append(&wal, 1, 1, 3 * batch..3 * batch + 3);
    }
    crashed(dir.path())
}

fn only(dir: &TempDir) -> PathBuf {
    let paths = segments(dir.path());
    assert_eq!(paths.len(), 1);
    paths[0].clone()
}

/// Opens the log without its threads.
fn start(dir: &TempDir) -> Result<Recovery, OpenError> {
    recover(&dir.path().join("wal"), roomy())
}

/// Indexes of the entries of group 1.
fn indexes(found: &Recovery) -> Vec<u64> {
    found.ledgers.get(&1).map(|ledger| ledger.entries.keys().copied().collect()).unwrap_or_default()
}

/// Writes the bytes back, changed, and opens the log.
fn start_with(dir: &TempDir, path: &Path, bytes: &[u8]) -> Result<Recovery, OpenError> {
    fs::write(path, bytes).unwrap();
    start(dir)
}

fn damaged_at(result: Result<Recovery, OpenError>) -> Option<u64> {
    match result {
        Err(OpenError::Damaged { offset, .. }) => Some(offset),
        Err(OpenError::Gap { .. } | OpenError::Version { .. }) => Some(u64::MAX),
        Err(OpenError::Locked(_) | OpenError::Io(_)) | Ok(_) => None,
    }
}

/// Like [`start_with`], for a log that must open.
fn judge(dir: &TempDir, path: &Path, bytes: &[u8]) -> Vec<u64> {
    indexes(&start_with(dir, path, bytes).unwrap())
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused_wherever_it_is() {
    let dir = three_batches();
    let path = only(&dir);
    let whole = fs::read(&path).unwrap();
    let records = layout(&path);
    let last_batch = records.last().unwrap().3;
    for &(offset, size, _, _) in records.iter().filter(|record| record.0 < last_batch) {
        for at in offset..offset + size {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let result = start_with(&dir, &path, &bytes);
            assert_eq!(damaged_at(result), Some(offset as u64), "byte {at}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "a refused log is not touched");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_batch_drops_the_torn_tail() {
    let dir = three_batches();
    let path = only(&dir);
    let whole = fs::read(&path).unwrap();
    let records = layout(&path);
    let last_batch = records.last().unwrap().3;
    for &(offset, size, head, _) in records.iter().filter(|record| record.0 >= last_batch) {
        for at in offset..offset + size {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let found = start_with(&dir, &path, &bytes).unwrap();
            assert_eq!(indexes(&found), (0..head.index).collect::<Vec<_>>(), "byte {at}");
            assert!(found.report.torn.is_some());
            let again = start(&dir).unwrap();
            assert_eq!((indexes(&again), again.report.torn), (indexes(&found), None));
        }
    }
}

#[test]
fn a_flipped_bit_before_a_mark_is_refused() {
    let dir = directory();
    let wal = open(&dir, Options { idle: Duration::from_millis(1), ..roomy() });
    append(&wal, 1, 1, 0..3);
    let path = only(&dir);
    until("a mark follows", || layout(&path).last().unwrap().2.kind == Kind::Mark);
    drop(wal);
    let whole = fs::read(&path).unwrap();
    let records = layout(&path);
    for &(offset, size, head, _) in records.iter().filter(|record| record.2.kind == Kind::Entry) {
        for at in offset..offset + size {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let result = start_with(&dir, &path, &bytes);
            assert_eq!(damaged_at(result), Some(offset as u64), "entry {} byte {at}", head.index);
        }
    }
}

#[test]
fn a_last_batch_cut_at_any_length_loses_only_itself() {
    let dir = three_batches();
    let path = only(&dir);
    let whole = fs::read(&path).unwrap();
    let records = layout(&path);
    let last_batch = records.last().unwrap().3;
    let end = records.last().map(|record| record.0 + record.1).unwrap();
    for length in last_batch..end {
        let kept = records.iter().filter(|record| record.0 + record.1 <= length).count() - 1;
        let expected: Vec<u64> = (0..kept as u64).collect();
        let short = start_with(&dir, &path, &whole[..length]).unwrap();
        assert_eq!(indexes(&short), expected, "file of {length} bytes");
        let mut bytes = whole.clone();
        bytes[length..].fill(0);
        let zeroed = indexes(&start_with(&dir, &path, &bytes).unwrap());
        // The last bytes of a record may be zeros anyway.
        assert!(zeroed.starts_with(&expected) && zeroed.len() <= 9, "zeros from {length}");
    }
}

#[test]
fn a_last_batch_with_any_of_its_pages_missing_loses_only_itself() {
    let dir = directory();
    let wal = open(&dir, roomy());
    append(&wal, 1, 1, 0..4);
    let large = |index| {
        let payload = Bytes::from(vec![index as u8; 300 + 40 * index as usize]);
        Record::Entry { term: 1, index, payload }
    };
    run(wal.group(1).sync((4..11).map(large).collect())).unwrap();
    let dir = crashed(dir.path());
    let path = only(&dir);
    let whole = fs::read(&path).unwrap();
    let records = layout(&path);
    let start_of_batch = records.last().unwrap().3;
    let end = records.last().map(|record| record.0 + record.1).unwrap();
    let pages: Vec<usize> = (start_of_batch / 512..end.div_ceil(512)).collect();
    assert!(pages.len() >= 8);
    for lost in 1_u32..1 << pages.len() {
        let mut bytes = whole.clone();
        for (bit, page) in pages.iter().enumerate() {
            if lost & (1 << bit) != 0 {
                bytes[(page * 512).max(start_of_batch)..((page + 1) * 512).min(end)].fill(0);
            }
        }
        let intact = |record: &&(usize, usize, _, _)| {
            whole[record.0..record.0 + record.1] == bytes[record.0..record.0 + record.1]
        };
        let kept = records.iter().take_while(intact).count() - 1;
        let found = judge(&dir, &path, &bytes);
        assert_eq!(found, (0..kept as u64).collect::<Vec<_>>(), "pages {lost:b}");
    }
}

#[test]
fn garbage_after_the_tail_is_dropped_and_the_log_goes_on() {
    let dir = three_batches();
    let path = only(&dir);
    let records = layout(&path);
    let (offset, size, _, _) = *records.last().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xa5; 3000], (offset + size) as u64).unwrap();
    let (wal, found) = Wal::open_with(dir.path(), roomy()).unwrap();
    assert_eq!(found.torn.unwrap().bytes, 3000);
    append(&wal, 1, 1, 9..12);
    drop(wal);
    let found = start(&dir).unwrap();
    assert_eq!((indexes(&found).len(), found.report.torn), (12, None));
}

#[test]
fn a_record_counts_only_where_it_was_written() {
    let dir = three_batches();
    let path = only(&dir);
    let mut bytes = fs::read(&path).unwrap();
    let (offset, size, _, _) = *layout(&path).last().unwrap();
    bytes.copy_within(offset..offset + size, offset + size);
    let found = start_with(&dir, &path, &bytes).unwrap();
    assert_eq!((indexes(&found).len(), found.report.torn.is_some()), (9, true));
    let other = three_batches();
    let foreign = fs::read(only(&other)).unwrap();
    bytes[offset..offset + size].copy_from_slice(&foreign[offset..offset + size]);
    assert_eq!(judge(&dir, &path, &bytes).len(), 8);
}

/// A log over several tiny segments, of which the last holds records.
fn several_segments() -> (TempDir, Vec<PathBuf>) {
    let dir = directory();
    let wal = open(&dir, tiny());
    for index in 0..150 {
        append(&wal, 1, 1, index..index + 1);
    }
    let dir = crashed(dir.path());
    let used = segments(dir.path()).into_iter().filter(|path| !layout(path).is_empty()).collect();
    (dir, used)
}

#[test]
fn damage_in_an_earlier_segment_is_refused() {
    let (dir, used) = several_segments();
    let path = &used[1];
    let whole = fs::read(path).unwrap();
    let (offset, size, _, _) = *layout(path).last().unwrap();
    for at in (0..64).chain(offset..offset + size) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        assert!(damaged_at(start_with(&dir, path, &bytes)).is_some(), "byte {at}");
    }
    let mut bytes = whole.clone();
    bytes[offset..].fill(0);
    assert_eq!(damaged_at(start_with(&dir, path, &bytes)), Some(offset as u64), "end zeroed");
    assert_eq!(
        damaged_at(start_with(&dir, path, &whole[..offset])),
        Some(offset as u64),
        "end cut"
    );
    bytes[HEADER_BYTES as usize..].fill(0);
    assert!(damaged_at(start_with(&dir, path, &bytes)).is_some(), "all zeroed");
    assert_eq!(start_with(&dir, path, &whole).map(|found| indexes(&found).len()).unwrap(), 150);
}

#[test]
fn damage_before_a_torn_segment_is_still_damage() {
    let (dir, used) = several_segments();
    let [.., before, last] = used.as_slice() else { panic!("two segments are needed") };
    let mut bytes = fs::read(last).unwrap();
    bytes[HEADER_BYTES as usize] ^= 1;
    let second_batch = layout(last)[2].0;
    bytes[second_batch..].fill(0);
    fs::write(last, bytes).unwrap();
    let whole = fs::read(before).unwrap();
    let (offset, _, _, _) = *layout(before).last().unwrap();
    let mut bytes = whole.clone();
    bytes[offset] ^= 1;
    assert_eq!(damaged_at(start_with(&dir, before, &bytes)), Some(offset as u64));
    assert!(start_with(&dir, before, &whole).is_ok());
}

#[test]
fn a_missing_segment_is_refused() {
    let (dir, used) = several_segments();
    for path in &used[..used.len() - 1] {
        let whole = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        match start(&dir) {
            Err(OpenError::Damaged { file, .. }) => assert_eq!(&file, path),
            other => panic!("{:?}", other.map(|found| found.report)),
        }
        fs::write(path, whole).unwrap();
    }
    assert!(start(&dir).is_ok());
}

#[test]
fn a_damaged_header_of_a_used_segment_is_refused() {
    let (dir, used) = several_segments();
    for path in [&used[0], &used[used.len() - 1]] {
        let whole = fs::read(path).unwrap();
        for at in 0..HEADER_BYTES as usize {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(damaged_at(start_with(&dir, path, &bytes)).is_some(), "byte {at}");
        }
        fs::write(path, whole).unwrap();
    }
}

#[test]
fn a_segment_whose_creation_was_cut_short_is_made_anew() {
    let (dir, used) = several_segments();
    let all = segments(dir.path());
    for extra in &all[used.len()..] {
        fs::remove_file(extra).unwrap();
    }
    let next = dir.path().join(format!("wal/{:016x}.seg", used.len() + 1));
    let header = fs::read(&used[0]).unwrap()[..64].to_vec();
    for length in 0..64 {
        fs::write(&next, &header[..length]).unwrap();
        assert_eq!(indexes(&start(&dir).unwrap()).len(), 150, "header of {length} bytes");
        fs::write(&next, vec![0; length * 16]).unwrap();
        assert_eq!(indexes(&start(&dir).unwrap()).len(), 150, "{length} zeros");
    }
    fs::write(&next, &header[..20]).unwrap();
    let wal = open(&dir, tiny());
    for index in 150..200 {
        append(&wal, 1, 1, index..index + 1);
    }
    let said = tell(&wal, 1);
    drop(wal);
    assert_eq!(tell(&open(&dir, tiny()), 1), said);
    let first = directory();
    fs::create_dir(first.path().join("wal")).unwrap();
    fs::write(first.path().join("wal/0000000000000001.seg"), &header[..7]).unwrap();
    assert!(start(&first).is_ok(), "the very first segment");
}

#[test]
fn a_torn_first_batch_of_a_segment_is_dropped_and_the_log_goes_on() {
    let (dir, used) = several_segments();
    let last = used.last().unwrap();
    let first_index = layout(last)[1].2.index;
    let batch_end = layout(last)[1].0 + layout(last)[1].1;
    let mut bytes = fs::read(last).unwrap();
    bytes[batch_end..].fill(0);
    bytes[HEADER_BYTES as usize + 3] ^= 1;
    fs::write(last, &bytes).unwrap();
    let (wal, found) = Wal::open_with(dir.path(), tiny()).unwrap();
    assert!(found.torn.is_some());
    assert_eq!(wal.group(1).span(), 0..first_index);
    for index in first_index..300 {
        append(&wal, 1, 1, index..index + 1);
    }
    let said = tell(&wal, 1);
    drop(wal);
    assert_eq!(tell(&open(&dir, tiny()), 1), said);
}

#[test]
fn another_format_is_named() {
    let dir = three_batches();
    let path = only(&dir);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    let result = start_with(&dir, &path, &bytes);
    assert!(matches!(result, Err(OpenError::Version { version: 9, .. })));
}

#[test]
fn a_damaged_entry_is_not_returned_by_a_read() {
    let dir = directory();
    let wal = open(&dir, Options { cache_bytes: 0, ..roomy() });
    append(&wal, 1, 1, 0..3);
    append(&wal, 1, 1, 3..4);
    let path = only(&dir);
    let (offset, _, _, _) = layout(&path)[2];
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"?", (offset + record::HEAD_BYTES) as u64).unwrap();
    assert!(wal.group(1).read(0..1, 100).is_ok());
    assert!(wal.group(1).read(0..3, 100).is_err());
}

#[test]
fn the_bytes_of_a_record_are_what_they_always_were() {
    let bytes = {
        let mut buffer = Vec::new();
        let record = Record::Entry { term: 2, index: 3, payload: Bytes::from_static(b"abc") };
        record::encode(&mut buffer, 7, 64, 64, &record.head(5), record.payload());
        buffer
    };
    let mut expected =
        vec![3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0];
    expected
        .extend([2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0, 0]);
    let crc = bytes[4..8].to_vec();
    expected[4..8].copy_from_slice(&crc);
    assert_eq!(bytes, expected);
    assert!(record::decode(&bytes, 7, 64).is_ok());
    assert!(record::decode(&bytes, 7, 72).is_err(), "another offset");
    assert!(record::decode(&bytes, 8, 64).is_err(), "another segment");
    assert!(Header::decode(&bytes).is_err());
}
