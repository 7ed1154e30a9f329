//! Where backups are, as a setting names it: a directory, or a prefix of a bucket. Parsed once; what
//! was parsed can be opened.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use object_store::client::HttpClient;
use serde::Deserialize;

use super::credentials::{Credentials, CredentialsError};

/// Seconds that a request may take beside the time that its bytes need.
const TIMEOUT_S: std::ops::RangeInclusive<u16> = 1..=300;
/// The longest name of a bucket.
const BUCKET_BYTES_MAX: usize = 63;

/// How an S3 service is reached: the settings `s3.*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// Empty: that of AWS in the region.
    pub endpoint: String,
    pub region: String,
    /// The bucket in the path; else in the name of the host.
    pub path_style: bool,
    /// Whether `http://` to this machine may be spoken.
    pub plain_http: bool,
    /// Empty: the environment.
    pub credentials_file: String,
    pub timeout_s: u16,
}

/// What is wrong with a place or the settings that reach it. The text repeats nothing that may be a
/// secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("must be an absolute path or s3://BUCKET/PREFIX")]
    Unknown,
    #[error("s3://BUCKET/PREFIX: the bucket must be 3 to 63 letters, digits, dots, - and _")]
    Bucket,
    #[error("s3://BUCKET/PREFIX: the prefix must be words of letters, digits, and . _ - = +")]
    Prefix,
    #[error("s3.endpoint must be https://HOST or https://HOST:PORT, without anything else")]
    Endpoint,
    #[error("s3.endpoint: http needs s3.plain_http, and a loopback address such as 127.0.0.1")]
    PlainHttp,
    #[error("s3.region must be letters, digits and -")]
    Region,
    #[error("s3.timeout_s must be {} to {}", TIMEOUT_S.start(), TIMEOUT_S.end())]
    Timeout,
}

/// A place of backups. Clones are the same.
#[derive(Debug, Clone)]
pub enum Place {
    Directory(PathBuf),
    Bucket(Arc<Bucket>),
}

/// A prefix of a bucket, and how it is reached.
pub struct Bucket {
    pub(super) name: String,
    /// Empty, or without slashes at its ends.
    pub(super) prefix: String,
    pub(super) region: String,
    pub(super) path_style: bool,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) credentials: Credentials,
    pub(super) timeout: Duration,
    /// One for all requests of a process: its connections are kept.
    pub(super) client: OnceLock<HttpClient>,
}

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Host, and the port if it is not the usual one.
    pub(super) authority: String,
}

impl Place {
    /// Whether there are credentials for it, so that a mistake is told when a node starts and not at
    /// night. Reads a small file.
    pub fn check(&self) -> Result<(), CredentialsError> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Bucket(bucket) => bucket.credentials.read().map(drop),
        }
    }

    /// The place that a text names; `variable` looks into the environment.
    pub fn parse(
        text: &str,
        s3: &S3,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, PlaceError> {
        let Some(rest) = text.strip_prefix("s3://") else {
            let dir = PathBuf::from(text);
            return if dir.is_absolute() {
                Ok(Self::Directory(dir))
            } else {
                Err(PlaceError::Unknown)
            };
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let named = (3..=BUCKET_BYTES_MAX).contains(&name.len());
        if !named
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            return Err(PlaceError::Bucket);
        }
        let region = s3.region.clone();
        if region.is_empty() || !region.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return Err(PlaceError::Region);
        }
        if !TIMEOUT_S.contains(&s3.timeout_s) {
            return Err(PlaceError::Timeout);
        }
        Ok(Self::Bucket(Arc::new(Bucket {
            name: name.to_owned(),
            prefix: prefix_of(prefix)?,
            region,
            path_style: s3.path_style,
            endpoint: Endpoint::parse(&s3.endpoint, s3.plain_http)?,
            credentials: Credentials::find(&s3.credentials_file, variable),
            timeout: Duration::from_secs(u64::from(s3.timeout_s)),
            client: OnceLock::new(),
        })))
    }
}

/// Two texts of one prefix must not be two places, and a listing must give back what was written.
fn prefix_of(text: &str) -> Result<String, PlaceError> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=+".contains(&byte);
    let is_word = |word: &str| !matches!(word, "" | "." | "..") && word.bytes().all(plain);
    if prefix.is_empty() || prefix.split('/').all(is_word) {
        return Ok(prefix.to_owned());
    }
    Err(PlaceError::Prefix)
}

impl Endpoint {
    fn parse(text: &str, plain_http: bool) -> Result<Option<Self>, PlaceError> {
        if text.is_empty() {
            return Ok(None);
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(PlaceError::Endpoint),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // No user, path, query or blank: a password would be told with every error.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return Err(PlaceError::Endpoint);
        }
        let allowed = tls || (plain_http && is_loopback(authority));
        if !allowed {
            return Err(PlaceError::PlainHttp);
        }
        Ok(Some(Self { tls, authority: authority.to_owned() }))
    }

    /// Its address, with the bucket in the name of the host if it does not go into the path.
    pub(super) fn url(&self, bucket: Option<&str>) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let authority = &self.authority;
        match bucket {
            Some(bucket) => format!("{scheme}://{bucket}.{authority}"),
            None => format!("{scheme}://{authority}"),
        }
    }
}

/// By its number only: a name may lead anywhere.
fn is_loopback(authority: &str) -> bool {
    let bare = authority.trim_matches(['[', ']']);
    let address = authority.parse::<SocketAddr>().map(|address| address.ip());
    address.or_else(|_| bare.parse::<IpAddr>()).is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(dir) => write!(f, "{}", dir.display()),
            Self::Bucket(bucket) => write!(f, "{bucket:?}"),
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.name, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3() -> S3 {
        S3 {
            endpoint: "https://s3.example:9000".to_owned(),
            region: "us-east-1".to_owned(),
            path_style: true,
            plain_http: false,
            credentials_file: String::new(),
            timeout_s: 30,
        }
    }

    fn parse(text: &str, s3: &S3) -> Result<String, PlaceError> {
        let variable = |name: &str| Some(format!("value of {name}"));
        Place::parse(text, s3, &variable).map(|place| place.to_string())
    }

    #[test]
    fn a_place_is_an_absolute_path_or_a_prefix_of_a_bucket() {
        for (text, wanted) in [
            ("/mnt/backups", Ok("/mnt/backups")),
            ("s3://backups", Ok("s3://backups/")),
            ("s3://backups/", Ok("s3://backups/")),
            ("s3://backups/skep/prod/", Ok("s3://backups/skep/prod")),
            ("backups", Err(PlaceError::Unknown)),
            ("gs://backups", Err(PlaceError::Unknown)),
            ("s3://", Err(PlaceError::Bucket)),
            ("s3://key:secret@backups/skep", Err(PlaceError::Bucket)),
            ("s3://backups//skep", Err(PlaceError::Prefix)),
            ("s3://backups/../skep", Err(PlaceError::Prefix)),
            ("s3://backups/a b", Err(PlaceError::Prefix)),
            ("s3://backups/skep?token=x", Err(PlaceError::Prefix)),
        ] {
            assert_eq!(parse(text, &s3()), wanted.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn http_is_for_this_machine_and_only_where_it_is_allowed() {
        for (endpoint, plain_http, wanted) in [
            ("", false, Ok(())),
            ("https://s3.example", false, Ok(())),
            ("https://[::1]:9000/", false, Ok(())),
            ("http://127.0.0.1:9000", true, Ok(())),
            ("http://[::1]:9000", true, Ok(())),
            ("http://127.0.0.1:9000", false, Err(PlaceError::PlainHttp)),
            ("http://10.0.0.1:9000", true, Err(PlaceError::PlainHttp)),
            ("http://localhost:9000", true, Err(PlaceError::PlainHttp)),
            ("http://127.0.0.1.example", true, Err(PlaceError::PlainHttp)),
            ("https://key:secret@s3.example", false, Err(PlaceError::Endpoint)),
            ("https://s3.example/path", false, Err(PlaceError::Endpoint)),
            ("s3.example", true, Err(PlaceError::Endpoint)),
        ] {
            let s3 = S3 { endpoint: endpoint.to_owned(), plain_http, ..s3() };
            assert_eq!(parse("s3://backups/skep", &s3).map(drop), wanted, "{endpoint}");
        }
    }

    #[test]
    fn a_bucket_without_credentials_is_told_and_a_directory_needs_none() {
        let none = |_: &str| None;
        let check = |text: &str| Place::parse(text, &s3(), &none).unwrap().check();
        assert_eq!(check("s3://backups/skep"), Err(CredentialsError::None));
        assert_eq!(check("/mnt/backups"), Ok(()));
    }
}
