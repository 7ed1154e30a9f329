//! A look at a log that may be in use: how large it is, and whether this build can read it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::OpenError;
use super::segment::{self, FORMAT_VERSION, HEADER_BYTES, Header};

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inspection {
    pub segments: usize,
    pub bytes: u64,
}

/// Looks at the heads of the segments in `dir/wal`; none if there is no log. Takes no lock and changes
/// nothing, so of damage it sees only what is in the heads.
pub fn inspect(dir: &Path) -> Result<Inspection, OpenError> {
    let mut seen = Inspection::default();
    let listed = match std::fs::read_dir(dir.join("wal")) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(seen),
        Err(error) => return Err(error.into()),
    };
    for entry in listed {
        let path = entry?.path();
        if segment::sequence(&path).is_none() {
            continue;
        }
        let mut head = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                seen.bytes += file.metadata()?.len();
                file.take(HEADER_BYTES).read_to_end(&mut head)?;
            }
            // A node that runs removes what it needs no more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        }
        seen.segments += 1;
        // One without a head is being made, or was when the process died: a start decides.
        let Ok(Header { version, .. }) = Header::decode(&head) else { continue };
        if version != FORMAT_VERSION {
            return Err(OpenError::Version { file: path, version });
        }
    }
    Ok(seen)
}
