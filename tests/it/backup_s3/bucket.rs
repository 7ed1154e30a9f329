//! What a bucket does: whole objects, parts of objects, pages of names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::http::request::Parts;
use sha2::{Digest as _, Sha256};

use super::sign::{decode, hex};

/// A page of names; small, so that listings have several.
const PAGE: usize = 7;
const MODIFIED: (&str, &str) = ("Sat, 21 Nov 2026 10:00:00 GMT", "2026-11-21T10:00:00.000Z");

type Answer = Response<Full<Bytes>>;

/// Objects, and parts of those that are not whole yet.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    begun: u64,
}

impl Bucket {
    pub(super) fn answer(&mut self, parts: &Parts, key: &str, body: Bytes) -> Answer {
        let query = query(parts);
        let upload = query.get("uploadId").map(String::as_str);
        match (parts.method.as_str(), upload) {
            ("GET", None) if key.is_empty() => self.list(&query),
            ("GET" | "HEAD", None) => self.read(parts, key),
            ("PUT", None) => {
                let tag = tag(&body);
                self.objects.insert(key.to_owned(), body);
                respond(200, &[("etag", tag)], Bytes::new())
            }
            ("DELETE", None) => {
                self.objects.remove(key);
                respond(204, &[], Bytes::new())
            }
            ("POST", None) if query.contains_key("uploads") => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                self.uploads.insert(id.clone(), BTreeMap::new());
                let names = format!("<Key>{key}</Key><UploadId>{id}</UploadId>");
                xml("InitiateMultipartUploadResult", &names)
            }
            ("PUT", Some(id)) => {
                let number = query.get("partNumber").and_then(|number| number.parse().ok());
                let (Some(parts), Some(number)) = (self.uploads.get_mut(id), number) else {
                    return refusal(404, "NoSuchUpload", "The upload does not exist");
                };
                let tag = tag(&body);
                parts.insert(number, body);
                respond(200, &[("etag", tag)], Bytes::new())
            }
            ("POST", Some(id)) => {
                let Some(parts) = self.uploads.remove(id) else {
                    return refusal(404, "NoSuchUpload", "The upload does not exist");
                };
                let whole = parts.into_values().collect::<Vec<Bytes>>().concat();
                let tag = tag(&whole);
                self.objects.insert(key.to_owned(), whole.into());
                xml("CompleteMultipartUploadResult", &format!("<ETag>{tag}</ETag>"))
            }
            ("DELETE", Some(id)) => {
                self.uploads.remove(id);
                respond(204, &[], Bytes::new())
            }
            _ => refusal(405, "MethodNotAllowed", "The method is not allowed"),
        }
    }

    fn read(&self, parts: &Parts, key: &str) -> Answer {
        let Some(content) = self.objects.get(key) else {
            return refusal(404, "NoSuchKey", "The specified key does not exist.");
        };
        let headers = [("etag", tag(content)), ("last-modified", MODIFIED.0.to_owned())];
        let range = parts.headers.get("range").and_then(|range| range.to_str().ok());
        let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        if parts.method == "HEAD" {
            let [tag, modified] = headers;
            let length = ("content-length", content.len().to_string());
            return respond(200, &[tag, modified, length], Bytes::new());
        }
        let Some((from, to)) = range else { return respond(200, &headers, content.clone()) };
        let all = content.len();
        let from = from.parse::<usize>().unwrap_or(0).min(all);
        let end = to.parse::<usize>().map_or(all, |to| all.min(to + 1)).max(from);
        let [tag, modified] = headers;
        let told = ("content-range", format!("bytes {from}-{}/{all}", end.saturating_sub(1)));
        respond(206, &[tag, modified, told], content.slice(from..end))
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter, after) = (of("prefix"), of("delimiter"), of("continuation-token"));
        let mut folders = BTreeSet::new();
        let mut entries = Vec::new();
        for (name, content) in self.objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let rest = &name[prefix.len()..];
            let end = rest.find(delimiter).filter(|_| !delimiter.is_empty());
            let Some(end) = end else {
                entries.push((name.clone(), object(name, content)));
                continue;
            };
            let folder = format!("{prefix}{}", &rest[..end + delimiter.len()]);
            if folders.insert(folder.clone()) {
                let entry = format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
                entries.push((folder, entry));
            }
        }
        let mut left = entries.into_iter().filter(|(name, _)| name.as_str() > after).peekable();
        let (mut text, mut last) = (String::new(), String::new());
        for (name, entry) in left.by_ref().take(PAGE) {
            (text, last) = (text + &entry, name);
        }
        let more = left.peek().is_some();
        let _ = write!(text, "<IsTruncated>{more}</IsTruncated>");
        if more {
            let _ = write!(text, "<NextContinuationToken>{last}</NextContinuationToken>");
        }
        xml("ListBucketResult", &text)
    }
}

fn object(name: &str, content: &Bytes) -> String {
    let (tag, length, modified) = (tag(content), content.len(), MODIFIED.1);
    format!(
        "<Contents><Key>{name}</Key><LastModified>{modified}</LastModified><ETag>{tag}</ETag>\
         <Size>{length}</Size></Contents>"
    )
}

fn query(parts: &Parts) -> BTreeMap<String, String> {
    let pairs = parts.uri.query().unwrap_or_default().split('&');
    let text = |text: &str| String::from_utf8_lossy(&decode(text)).into_owned();
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (text(name), text(value))
    };
    pairs.map(pair).collect()
}

fn tag(content: &[u8]) -> String {
    format!("\"{}\"", &hex(&Sha256::digest(content))[..32])
}

fn xml(root: &str, text: &str) -> Answer {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}>{text}</{root}>");
    respond(200, &[("content-type", "application/xml".to_owned())], text.into())
}

/// An answer that says no.
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    respond(status, &[], text.into())
}

fn respond(status: u16, headers: &[(&str, String)], body: Bytes) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, value);
    }
    answer.body(Full::new(body)).expect("headers that are text")
}
