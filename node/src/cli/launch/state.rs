//! What a launcher remembers of its cluster between runs: keys, ports and commands. Private to its
//! owner, because it holds keys; always a whole file, because it is renamed into place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LaunchError, Ports};

/// A cluster that was formed here.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct State {
    pub cluster_id: Option<String>,
    pub admin_key: Option<String>,
    pub tenant: Option<TenantKey>,
    pub nodes: Vec<NodeState>,
}

/// A tenant and its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantKey {
    pub id: String,
    pub api_key: String,
}

/// One node that was started here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeState {
    /// Its id in the cluster, once it is known.
    pub id: Option<String>,
    pub ports: Ports,
    /// What restarts it.
    pub command: Vec<String>,
}

pub(super) fn state_path(directory: &Path) -> PathBuf {
    directory.join("dev.keys")
}

pub(super) fn load(directory: &Path) -> Result<State, LaunchError> {
    let path = state_path(directory);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| LaunchError::Refused(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(LaunchError::file("cannot read", path, error)),
    }
}

/// Writes `value` to `path` for its owner alone, whole or not at all.
pub fn write_private(path: &Path, value: &impl Serialize) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::file("cannot write", path, source);
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other).map_err(failed)?;
    text.push(b'\n');
    let beside = path.with_extension("new");
    write_private_bytes(&beside, &text)?;
    fs::rename(&beside, path).map_err(failed)
}

pub(super) fn write_private_bytes(path: &Path, bytes: &[u8]) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::file("cannot write", path, source);
    // An older file may have other permissions, and mode() applies to new files only.
    remove_if_there(path)?;
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// Removes a file that may not be there.
pub fn remove_if_there(path: &Path) -> Result<(), LaunchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LaunchError::file("cannot remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn create_directory(path: &Path) -> Result<(), LaunchError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| LaunchError::file("cannot create", path, source))
}

/// Takes the directory for this process until the file is dropped.
pub(super) fn lock(directory: &Path) -> Result<File, LaunchError> {
    let path = directory.join("dev.lock");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let file = file.map_err(|source| LaunchError::file("cannot write", &path, source))?;
    let taken = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    taken
        .map_err(|_| LaunchError::Refused(format!("another skep holds {}", directory.display())))?;
    Ok(file)
}
