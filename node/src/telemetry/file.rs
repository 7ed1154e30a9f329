//! A log file that is set aside when it is full: `skep.log`, then `skep.log.1` (newest) to
//! `skep.log.N`. Invariant: at most `FILES_MAX + 1` files of about `FILE_BYTES_MAX` exist, mode 0600.

use std::fs::{DirBuilder, File, OpenOptions, rename};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Size at which a file is set aside.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files kept besides the current one.
const FILES_MAX: usize = 4;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts lines that found no room or no disk.
pub(super) fn note_dropped(lines: &[u8]) {
    let count = lines.iter().filter(|&&byte| byte == b'\n').count();
    DROPPED.fetch_add(count as u64, Ordering::Relaxed);
}

/// The current file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Opens the file to append to it, and makes the directory where it is missing.
    pub(super) fn open(directory: &Path, name: &str) -> io::Result<Self> {
        Self::open_with(directory, name, FILE_BYTES_MAX)
    }

    fn open_with(directory: &Path, name: &str, bytes_max: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(name);
        let file = append(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, bytes_max })
    }

    /// Appends lines. Where the disk refuses they are dropped and counted: a log must not stop a node.
    pub(super) fn write(&mut self, lines: &[u8]) {
        if self.bytes + lines.len() as u64 > self.bytes_max && self.rotate().is_err() {
            return note_dropped(lines);
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            // Not JSON by accident: the formatter cannot be asked from here.
            let note = format!(
                "{{\"level\":\"WARN\",\"message\":\"log lines dropped\",\"lines\":{dropped}}}\n"
            );
            self.append(note.as_bytes());
        }
        self.append(lines);
    }

    fn append(&mut self, lines: &[u8]) {
        match self.file.write_all(lines) {
            Ok(()) => self.bytes += lines.len() as u64,
            Err(_) => note_dropped(lines),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..FILES_MAX).rev() {
            match rename(self.numbered(number), self.numbered(number + 1)) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                Ok(()) | Err(_) => {}
            }
        }
        rename(&self.path, self.numbered(1))?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_full_file_is_set_aside_and_the_oldest_forgotten() {
        let directory = std::env::temp_dir().join(format!("skep-log-{}", uuid::Uuid::now_v7()));
        let mut file = LogFile::open_with(&directory, "skep.log", 10).unwrap();
        for number in 0..9 {
            file.write(format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["skep.log", "skep.log.1", "skep.log.2", "skep.log.3", "skep.log.4"]);
        assert_eq!(std::fs::read_to_string(directory.join("skep.log")).unwrap(), "line 8\n");
        assert_eq!(std::fs::read_to_string(directory.join("skep.log.4")).unwrap(), "line 4\n");
        let mode = std::fs::metadata(directory.join("skep.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
