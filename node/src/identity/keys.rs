//! The keys of a node, each in a private file of text: the format's number, then what it holds.
//! `DIR/sign.key` signs audits; `DIR/tls/node.key` and `DIR/tls/authority.key` prove it to peers.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use raft::network::trust::{Authority, NodeKey};

use super::{IdentityError, written_whole};

const FORMAT: &str = "1";

/// What this node signs audits with, made at its first start.
pub fn signing_secret(data: &Path) -> Result<[u8; 32], IdentityError> {
    let path = data.join("sign.key");
    if let Some(words) = read(&path)? {
        let secret = words.first().and_then(|hex| protocol::Digest::parse(hex).ok());
        return Ok(secret.ok_or_else(|| no_key(&path))?.0);
    }
    let secret: [u8; 32] = rand::random();
    write(&path, &[protocol::Digest(secret).to_string()])?;
    Ok(secret)
}

/// What this node proves itself with, made before it joins or founds a cluster.
pub fn node_key(data: &Path) -> Result<NodeKey, IdentityError> {
    let path = folder(data)?.join("node.key");
    let damaged = |why: String| IdentityError::Damaged(path.clone(), why);
    if let Some(words) = read(&path)? {
        let bytes = words.first().and_then(|word| STANDARD.decode(word).ok());
        let key = NodeKey::from_bytes(&bytes.ok_or_else(|| no_key(&path))?);
        return key.map_err(|error| damaged(error.to_string()));
    }
    let key = NodeKey::generate().map_err(|error| damaged(error.to_string()))?;
    write(&path, &[STANDARD.encode(key.to_bytes())])?;
    Ok(key)
}

/// The authority of the cluster that this directory belongs to, if it belongs to one.
pub fn authority(data: &Path) -> Result<Option<Authority>, IdentityError> {
    let path = authority_file(data)?;
    let Some(words) = read(&path)? else { return Ok(None) };
    let mut parts = words.iter().map(|word| STANDARD.decode(word).ok());
    let (Some(Some(certificate)), Some(Some(key))) = (parts.next(), parts.next()) else {
        return Err(no_key(&path));
    };
    Ok(Some(Authority { certificate, key }))
}

/// Keeps the authority of the cluster that this directory belongs to from now on.
pub fn save_authority(data: &Path, authority: &Authority) -> Result<(), IdentityError> {
    let words = [&authority.certificate, &authority.key].map(|part| STANDARD.encode(part));
    write(&authority_file(data)?, &words)
}

fn authority_file(data: &Path) -> Result<PathBuf, IdentityError> {
    Ok(folder(data)?.join("authority.key"))
}

fn folder(data: &Path) -> Result<PathBuf, IdentityError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = data.join("tls");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|error| IdentityError::Io(folder.clone(), error))?;
    Ok(folder)
}

fn no_key(path: &Path) -> IdentityError {
    IdentityError::Damaged(path.to_owned(), "no key in it".to_owned())
}

/// The words after the format's number; `None` where there is no file.
fn read(path: &Path) -> Result<Option<Vec<String>>, IdentityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mut words = text.split_whitespace().map(str::to_owned);
            if words.next().as_deref() != Some(FORMAT) {
                return Err(no_key(path));
            }
            Ok(Some(words.collect()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(IdentityError::Io(path.to_owned(), error)),
    }
}

fn write(path: &Path, words: &[String]) -> Result<(), IdentityError> {
    let text = format!("{FORMAT} {}\n", words.join(" "));
    let folder = path.parent().unwrap_or(path);
    written_whole(folder, path, text.as_bytes())
        .map_err(|error| IdentityError::Io(path.to_owned(), error))
}
