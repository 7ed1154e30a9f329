//! Reading what `strace -f -ttt -T -y` wrote, and the one question to it: was a record synced before
//! its acknowledgement left?

use std::collections::BTreeMap;

/// One system call. Times are microseconds of the machine's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// The file descriptor with what it stands for, then the other arguments, as strace shows them.
    pub(crate) arguments: String,
    pub(crate) began: u64,
    /// `None` if it did not return before strace let its thread go.
    pub(crate) ended: Option<u64>,
    pub(crate) failed: bool,
}

/// A call whose end stands on a later line.
struct Unfinished {
    name: String,
    arguments: String,
    began: u64,
}

impl Call {
    /// `12</data/wal/0000000000000001.seg>`.
    fn file(&self) -> &str {
        self.arguments.split_once('>').map_or(self.arguments.as_str(), |(file, _)| file)
    }
}

/// The calls of a trace in the order in which they ended, and then those that did not. Signals and
/// exits are left out.
pub(crate) fn read(text: &str) -> Vec<Call> {
    let mut unfinished: BTreeMap<&str, Unfinished> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, began, rest)) = split(line) else { continue };
        let cut =
            rest.strip_suffix(" <unfinished ...>").or_else(|| rest.strip_suffix(" <detached ...>"));
        if let Some(open) = cut {
            // Resumed and cut off once more, it stays what it is.
            if let Some((name, arguments)) = open.split_once('(') {
                let (name, arguments) = (name.to_owned(), arguments.to_owned());
                unfinished.insert(thread, Unfinished { name, arguments, began });
            }
            continue;
        }
        let (open, rest) = match rest.strip_prefix("<... ") {
            Some(rest) => {
                let Some(open) = unfinished.remove(thread) else { continue };
                let Some((_, rest)) = rest.split_once(" resumed>") else { continue };
                (open, rest)
            }
            None => {
                let Some((name, rest)) = rest.split_once('(') else { continue };
                (Unfinished { name: name.to_owned(), arguments: String::new(), began }, rest)
            }
        };
        calls.extend(finish(open, rest));
    }
    calls.extend(unfinished.into_values().map(|open| {
        let Unfinished { name, arguments, began } = open;
        Call { name, arguments, began, ended: None, failed: false }
    }));
    calls
}

/// `4711 1795221897.957432 write(…` as thread, time and call.
fn split(line: &str) -> Option<(&str, u64, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (time, call) = rest.trim_start().split_once(' ')?;
    Some((thread, micros(time)?, call))
}

/// `3</f>, "…", 8, 0) = 8 <0.000041>`: the rest of the arguments, the result and the duration.
fn finish(open: Unfinished, rest: &str) -> Option<Call> {
    let (rest, duration) = rest.strip_suffix('>')?.rsplit_once(" <")?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let Unfinished { name, arguments: first, began } = open;
    let ended = Some(began + micros(duration)?);
    let failed = result.trim_start().starts_with('-');
    Some(Call { name, arguments: first + arguments, began, ended, failed })
}

/// `0.000041` as 41.
fn micros(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    let right = fraction.len() == 6;
    right.then(|| Some(seconds.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()?))?
}

/// When a record that contains `marker` was on disk: the end of the first sync of its file that began
/// after the write had ended.
pub(crate) fn synced(calls: &[Call], marker: &str) -> Option<u64> {
    let writes = calls.iter().filter(|call| {
        call.name == "pwrite64" && call.file().ends_with(".seg") && call.arguments.contains(marker)
    });
    let syncs = writes.filter_map(|write| {
        let written = write.ended?;
        let after = calls.iter().filter(|call| {
            matches!(call.name.as_str(), "fdatasync" | "fsync")
                && !call.failed
                && call.file() == write.file()
                && call.began >= written
        });
        after.filter_map(|sync| sync.ended).min()
    });
    syncs.min()
}

/// When a successful HTTP answer with this `Skep-Index` began to leave.
pub(crate) fn answered(calls: &[Call], index: &str) -> Option<u64> {
    let header = format!("skep-index: {index}\\r\\n");
    let answers = calls.iter().filter(|call| {
        matches!(call.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
            && call.arguments.contains("\"HTTP/1.1 20")
            && call.arguments.to_ascii_lowercase().contains(&header)
    });
    answers.map(|answer| answer.began).min()
}

#[cfg(test)]
mod tests {
    use super::{answered, read, synced};

    const WRITE: &str = r#"7 10.000100 pwrite64(3</d/1.seg>, "x\1m-1"..., 9, 64) = 9 <0.000010>"#;
    const OTHER: &str = r#"8 10.000150 fdatasync(4</d/2.seg>) = 0 <0.000010>"#;
    const SYNC: &str = r#"7 10.000200 fdatasync(3</d/1.seg> <unfinished ...>
9 10.000300 write(5<socket:[1]>, "ping", 4) = 4 <0.000010>
7 10.000900 <... fdatasync resumed>) = 0 <0.000700>"#;
    const ANSWER: &str = r#"9 10.001000 writev(6<socket:[2]>, [{iov_base="HTTP/1.1 201 Created\r\nSkep-Index: 3:17\r\n\r\n", iov_len=40}], 1) = 40 <0.000020>"#;

    fn check(lines: &[&str], synced_at: Option<u64>, answered_at: Option<u64>) {
        let calls = read(&lines.join("\n"));
        assert_eq!(synced(&calls, "m-1"), synced_at);
        assert_eq!(answered(&calls, "3:17"), answered_at);
    }

    #[test]
    fn a_record_is_on_disk_when_the_sync_of_its_file_after_it_has_ended() {
        check(&[WRITE, OTHER, SYNC, ANSWER], Some(10_000_900), Some(10_001_000));
    }

    #[test]
    fn a_sync_that_began_before_the_write_or_of_another_file_does_not_count() {
        check(&[SYNC, WRITE.replace("10.000100", "10.000300").as_str(), OTHER], None, None);
        check(&[WRITE, OTHER], None, None);
    }

    #[test]
    fn a_sync_that_failed_or_never_returned_does_not_count() {
        let failed = "7 10.000200 fdatasync(3</d/1.seg>) = -1 EIO (Input/output error) <0.000700>";
        check(&[WRITE, failed], None, None);
        check(&[WRITE, "7 10.000200 fdatasync(3</d/1.seg> <unfinished ...>"], None, None);
    }

    #[test]
    fn an_answer_that_strace_did_not_see_end_has_left_all_the_same() {
        let cut = ANSWER.rsplit_once(") = ").expect("a call that returned").0;
        check(&[&format!("{cut} <detached ...>")], None, Some(10_001_000));
        check(&[&format!("{cut} <unfinished ...>")], None, Some(10_001_000));
        let resumed = "9 10.002000 <... writev resumed> <detached ...>";
        check(&[&format!("{cut} <unfinished ...>"), resumed], None, Some(10_001_000));
    }

    #[test]
    fn an_answer_with_another_index_or_status_is_another_answer() {
        check(&[&ANSWER.replace("3:17", "3:170")], None, None);
        check(&[&ANSWER.replace("201 Created", "503 No")], None, None);
        check(&["7 10.000200 +++ exited with 0 +++", "garbage", ""], None, None);
    }
}
