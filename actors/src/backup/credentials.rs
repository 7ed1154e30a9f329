//! Who the nodes are towards an S3 service. Invariant: nothing here shows a secret, not even to a
//! debugger's `{:?}`, and a file that others can read is not used.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use object_store::aws::AwsCredential;

const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN: &str = "AWS_SESSION_TOKEN";
/// The longest file: session tokens have a few KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Bits of a mode by which others than the owner can read or write.
const OTHERS: u32 = 0o077;

/// Why there are no credentials. Names files, lines and variables, never what is in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("there are no credentials: set {KEY_ID} and {SECRET}, or s3.credentials_file")]
    None,
    #[error("{0} has a character that cannot be in a header")]
    Unprintable(&'static str),
    #[error("s3.credentials_file must be an absolute path")]
    Relative,
    #[error("{}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: String },
    #[error("{}: others than its owner can read it (mode {mode:o}): chmod 600", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{}, line {line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: &'static str },
    #[error("{} has no {what}", path.display())]
    Lacks { path: PathBuf, what: &'static str },
}

/// Where credentials are.
pub(super) enum Credentials {
    Nowhere,
    /// As the environment had them when the process began.
    Environment(Keys),
    /// Read again for each backup, so a new one counts without a restart.
    File(PathBuf),
}

/// A pair, and a token if it is a passing one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

impl Credentials {
    /// The file if one is named, else the environment. Whether they are there is seen when they are
    /// read: settings can be looked at where there are none.
    pub(super) fn find(file: &str, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        if !file.is_empty() {
            return Self::File(PathBuf::from(file));
        }
        let of = |name: &str| variable(name).filter(|value| !value.is_empty());
        match (of(KEY_ID), of(SECRET)) {
            (Some(id), Some(secret)) => Self::Environment(Keys { id, secret, token: of(TOKEN) }),
            (None | Some(_), None) | (None, Some(_)) => Self::Nowhere,
        }
    }

    /// What they are now. Reads a small file: not for an executor's thread.
    pub(super) fn read(&self) -> Result<Keys, CredentialsError> {
        match self {
            Self::Nowhere => Err(CredentialsError::None),
            Self::Environment(keys) => keys.clone().sound(),
            Self::File(path) if path.is_absolute() => parse(path, &read_private(path)?),
            Self::File(_) => Err(CredentialsError::Relative),
        }
    }
}

impl Keys {
    fn sound(self) -> Result<Self, CredentialsError> {
        let token = self.token.as_deref().unwrap_or_default();
        for (name, value) in [(KEY_ID, &*self.id), (SECRET, &*self.secret), (TOKEN, token)] {
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(CredentialsError::Unprintable(name));
            }
        }
        Ok(self)
    }

    pub(super) fn into_credential(self) -> AwsCredential {
        AwsCredential { key_id: self.id, secret_key: self.secret, token: self.token }
    }
}

fn read_private(path: &Path) -> Result<String, CredentialsError> {
    let unreadable = |error: io::Error| CredentialsError::Unreadable {
        path: path.to_owned(),
        cause: error.to_string(),
    };
    // Without waiting for a writer, should it be a pipe.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path);
    let file = file.map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    if meta.mode() & OTHERS != 0 {
        return Err(CredentialsError::Open { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Lines of `name = value`, under one `[profile]` or none, as the tools of AWS write them.
fn parse(path: &Path, text: &str) -> Result<Keys, CredentialsError> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut profiles = 0;
    for (number, line) in text.lines().enumerate() {
        let wrong = |what| CredentialsError::Line { path: path.to_owned(), line: number + 1, what };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            profiles += 1;
            if profiles > 1 {
                return Err(wrong("there must be one profile"));
            }
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("must be NAME = VALUE"))?;
        let place = match name.trim().to_ascii_uppercase().as_str() {
            KEY_ID => &mut id,
            SECRET => &mut secret,
            TOKEN => &mut token,
            _ => return Err(wrong("must name the access key id, its secret or a session token")),
        };
        if place.replace(value.trim().to_owned()).is_some() {
            return Err(wrong("is there twice"));
        }
    }
    let lacks = |what| CredentialsError::Lacks { path: path.to_owned(), what };
    let is_set = |value: &String| !value.is_empty();
    let id = id.filter(is_set).ok_or_else(|| lacks(KEY_ID))?;
    let secret = secret.filter(is_set).ok_or_else(|| lacks(SECRET))?;
    Keys { id, secret, token: token.filter(is_set) }.sound()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What a file of this text and mode gives.
    fn check(text: &str, mode: u32) -> Result<(String, String, Option<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let none = |_: &str| None;
        let keys = Credentials::find(path.to_str().unwrap(), &none).read();
        let told = |error: CredentialsError| {
            error.to_string().replace(path.to_str().unwrap(), "FILE").replace("hidden", "SHOWN")
        };
        keys.map(|keys| (keys.id, keys.secret, keys.token)).map_err(told)
    }

    #[test]
    fn a_file_is_read_as_aws_writes_it_or_as_variables() {
        let (id, secret) = ("AKIA".to_owned(), "hidden".to_owned());
        let ini = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = hidden\n";
        assert_eq!(check(ini, 0o600), Ok((id.clone(), secret.clone(), None)));
        let variables = "# of the bucket\nAWS_ACCESS_KEY_ID=AKIA\nAWS_SECRET_ACCESS_KEY=hidden\n\nAWS_SESSION_TOKEN=t=\n";
        assert_eq!(check(variables, 0o400), Ok((id, secret, Some("t=".to_owned()))));
    }

    #[test]
    fn a_mistake_is_told_without_what_is_in_the_file() {
        let both = "aws_access_key_id = AKIA\naws_secret_access_key = hidden\n";
        for (text, mode, wanted) in [
            (both, 0o640, "FILE: others than its owner can read it (mode 640): chmod 600"),
            ("aws_access_key_id = AKIA", 0o600, "FILE has no AWS_SECRET_ACCESS_KEY"),
            ("hidden", 0o600, "FILE, line 1: must be NAME = VALUE"),
            (
                "aws_secret_key = hidden",
                0o600,
                "FILE, line 1: must name the access key id, its secret or a session token",
            ),
            ("[a]\n[b]", 0o600, "FILE, line 2: there must be one profile"),
            (
                "aws_access_key_id = A\naws_secret_access_key = hid den",
                0o600,
                "AWS_SECRET_ACCESS_KEY has a character that cannot be in a header",
            ),
        ] {
            assert_eq!(check(text, mode), Err(wanted.to_owned()));
        }
    }

    #[test]
    fn the_environment_counts_without_a_file_and_an_empty_variable_is_none() {
        let variable = |secret: &'static str| {
            move |name: &str| match name {
                KEY_ID => Some("AKIA".to_owned()),
                SECRET => Some(secret.to_owned()),
                _ => None,
            }
        };
        let found = Credentials::find("", &variable("hidden")).read();
        assert_eq!(found.map(|keys| keys.token), Ok(None));
        let refused = Credentials::find("", &variable("")).read();
        assert_eq!(refused.map(|keys| keys.id), Err(CredentialsError::None));
    }
}
