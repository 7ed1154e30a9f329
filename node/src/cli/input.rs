//! Documents from files and stdin, as `scan` and `job submit` take them.

use std::fs;
use std::io::Read;
use std::path::Path;

use client::scan::Document;
use serde::Deserialize;

use super::failure::{Exit, Failure};

/// The largest content of one document, in Unicode scalar values.
const CHARACTERS_MAX: usize = 20_000;
const INPUT_BYTES_MAX: u64 = 256 << 20;

#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    #[serde(alias = "text")]
    content: String,
}

/// Reads `paths`; `-` is stdin. A `.ndjson` or `.jsonl` file holds one document per line, any other
/// file is one document, cut into parts where it is too long for one.
pub(super) fn documents(paths: &[String], ndjson: bool) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        let text = read(path)?;
        if ndjson || is_ndjson(path) {
            documents.extend(from_lines(path, &text)?);
        } else {
            documents.extend(from_text(if path == "-" { "stdin" } else { path }, &text));
        }
    }
    if documents.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is nothing to scan"));
    }
    Ok(documents)
}

fn read(path: &str) -> Result<String, Failure> {
    let unreadable = |error| Failure::failed(format!("{path}: {error}"));
    let mut bytes = Vec::new();
    if path == "-" {
        let stdin = std::io::stdin().lock();
        stdin.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::failed(format!("{path}: larger than {INPUT_BYTES_MAX} bytes")));
    }
    // A scanner that refuses odd bytes would let them pass unscanned elsewhere.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_ndjson(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("ndjson" | "jsonl"))
}

fn from_lines(path: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = i + 1;
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Failure::failed(format!("{path}:{number}: {error}")))?;
        let id = line.id.unwrap_or_else(|| format!("{path}:{number}"));
        documents.push(Document::new(id, line.content));
    }
    Ok(documents)
}

fn from_text(name: &str, text: &str) -> Vec<Document> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let parts = cut(text);
    if let [whole] = parts.as_slice() {
        return vec![Document::new(name, *whole)];
    }
    let numbered = parts.into_iter().zip(1..);
    numbered.map(|(part, number)| Document::new(format!("{name}#{number}"), part)).collect()
}

/// Parts of at most [`CHARACTERS_MAX`] characters, cut after white space where there is some.
fn cut(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((end, _)) = rest.char_indices().nth(CHARACTERS_MAX) {
        let at = rest[..end].rfind(char::is_whitespace).filter(|at| *at > end / 2).unwrap_or(end);
        let (part, after) = rest.split_at(at);
        parts.push(part);
        rest = after;
    }
    if !rest.trim().is_empty() {
        parts.push(rest);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_nothing_is_lost() {
        let text = "word ".repeat(CHARACTERS_MAX / 2);
        let parts = cut(&text);
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| part.chars().count() <= CHARACTERS_MAX));
    }

    #[test]
    fn lines_keep_their_ids_and_mistakes_name_their_place() {
        let text = "{\"id\":\"a\",\"content\":\"x\"}\n\n{\"text\":\"y\"}\n";
        let ids: Vec<_> = from_lines("f", text).unwrap().into_iter().map(|d| d.id).collect();
        assert_eq!(ids, ["a", "f:3"]);
        assert!(from_lines("f", "{}").unwrap_err().message.starts_with("f:1: missing field"));
    }
}
