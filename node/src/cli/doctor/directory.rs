//! A data directory: whose it is, who may read it, and whether this build can.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use protocol::versions::Wire;
use raft::node::saved_wire;
use raft::wal::{self, OpenError};

use super::Finding;
use crate::identity::NodeFile;

/// What is looked at; blobs are too many, and below a directory that nobody else can enter.
const FOLDERS: [&str; 6] = ["", "wal", "checkpoint", "blobs", "tls", "log"];
const ENTRIES_MAX: usize = 10_000;
/// Of everybody but the owner.
const OTHERS: u32 = 0o077;

pub(super) fn check(data: &Path) -> Vec<Finding> {
    match std::fs::metadata(data) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return vec![Finding::fail("data", format!("{} is a file", data.display()))],
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = format!("{} is not there yet", data.display());
            return vec![Finding::ok("data", found)];
        }
        Err(error) => {
            return vec![Finding::fail("data", format!("{}: {error}", data.display()))];
        }
    }
    vec![identity(data), log(data), saved(data), access(data)]
}

fn identity(data: &Path) -> Finding {
    let check = "data identity";
    match NodeFile::read(data) {
        Ok(Some(file)) => Finding::ok(check, format!("{file:?}")),
        Ok(None) if data.join("wal").exists() => {
            Finding::fail(check, "there is a log and no node.json")
                .advice("see \"Other files are damaged\" in operate/failures")
        }
        Ok(None) => Finding::ok(check, "no node yet"),
        Err(error) => Finding::fail(check, error.to_string())
            .advice("see \"Other files are damaged\" in operate/failures"),
    }
}

fn log(data: &Path) -> Finding {
    let check = "data log";
    match wal::inspect(data) {
        Ok(found) => {
            let room = super::size(found.bytes);
            Finding::ok(check, format!("{} segments, {room}", found.segments))
        }
        Err(error @ OpenError::Version { .. }) => {
            Finding::fail(check, error.to_string()).advice("start the newer release")
        }
        Err(error) => Finding::fail(check, error.to_string())
            .advice("see \"The log is damaged\" in operate/failures"),
    }
}

/// What a start would refuse before it reads the log.
fn saved(data: &Path) -> Finding {
    let check = "data versions";
    match saved_wire(data) {
        Ok(None) => Finding::ok(check, "no cluster was met yet"),
        Ok(Some(active)) if Wire::OURS.speaks(active) => {
            Finding::ok(check, format!("wire version {active}")).bound(format!("{}", Wire::OURS))
        }
        Ok(Some(active)) => Finding::fail(check, format!("wire version {active}"))
            .bound(format!("{}", Wire::OURS))
            .advice("start the newer release"),
        Err(error) => Finding::fail(check, error.to_string()).advice("start the newer release"),
    }
}

fn access(data: &Path) -> Finding {
    let check = "data access";
    let me = rustix::process::geteuid().as_raw();
    let wrong = match entries(data) {
        Ok(entries) => entries.into_iter().find_map(|(path, found)| wrong(&path, &found, me)),
        Err(error) => Some(error.to_string()),
    };
    let bound = "0700 and 0600, of the user that runs the node";
    match wrong {
        None => Finding::ok(check, "the owner's alone").bound(bound),
        Some(wrong) => {
            Finding::fail(check, wrong).bound(bound).advice("chown and chmod it; it holds keys")
        }
    }
}

fn entries(data: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut found = vec![(data.to_owned(), data.metadata()?)];
    for folder in FOLDERS.map(|folder| data.join(folder)) {
        let listed = match std::fs::read_dir(&folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in listed.take(ENTRIES_MAX) {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => found.push((entry.path(), metadata)),
                // A node that runs writes and removes files.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn wrong(path: &Path, found: &Metadata, me: u32) -> Option<String> {
    let mode = found.permissions().mode() & 0o7777;
    if found.uid() != me {
        return Some(format!("{} is of user {}, not {me}", path.display(), found.uid()));
    }
    (mode & OTHERS != 0).then(|| format!("{} has mode {mode:04o}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::super::Verdict;
    use super::*;

    fn private() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn verdicts(data: &Path) -> Vec<(&'static str, Verdict)> {
        check(data).into_iter().map(|finding| (finding.check, finding.verdict)).collect()
    }

    #[test]
    fn an_empty_directory_and_a_missing_one_are_fine() {
        let dir = private();
        assert!(verdicts(dir.path()).iter().all(|(_, verdict)| *verdict == Verdict::Ok));
        assert_eq!(verdicts(&dir.path().join("new")), [("data", Verdict::Ok)]);
    }

    #[test]
    fn what_others_can_read_and_a_log_without_a_node_are_told() {
        let dir = private();
        std::fs::create_dir(dir.path().join("wal")).unwrap();
        set_permissions(dir.path().join("wal"), Permissions::from_mode(0o755)).unwrap();
        let found = verdicts(dir.path());
        assert!(found.contains(&("data identity", Verdict::Fail)), "{found:?}");
        assert!(found.contains(&("data access", Verdict::Fail)), "{found:?}");
        set_permissions(dir.path().join("wal"), Permissions::from_mode(0o700)).unwrap();
        assert!(verdicts(dir.path()).contains(&("data access", Verdict::Ok)));
    }

    #[test]
    fn a_node_file_of_a_newer_format_is_told() {
        let dir = private();
        std::fs::write(dir.path().join("node.json"), r#"{"format": 99}"#).unwrap();
        let found = identity(dir.path());
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.found.contains("has format 99"), "{}", found.found);
    }
}
