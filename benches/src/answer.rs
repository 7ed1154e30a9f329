//! An HTTP/1.1 answer as its bytes arrive, for connections that wait in either way. Invariant: there
//! is one answer at a time, for the next request is sent after it.

use anyhow::{Context, Result, bail};

/// No answer here is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const BYTES_FIRST: usize = 8192;

/// What has come of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    buffer: Vec<u8>,
    filled: usize,
    head: Option<Head>,
}

impl Answer {
    pub(crate) fn new() -> Answer {
        Answer { buffer: vec![0; BYTES_FIRST], filled: 0, head: None }
    }

    /// Forgets the last answer: a request is sent.
    pub(crate) fn begin(&mut self) {
        (self.filled, self.head) = (0, None);
    }

    /// Where the next bytes go; never empty.
    pub(crate) fn space(&mut self) -> Result<&mut [u8]> {
        if self.filled == self.buffer.len() {
            if self.filled >= ANSWER_BYTES_MAX {
                bail!("an answer of more than {ANSWER_BYTES_MAX} bytes");
            }
            self.buffer.resize(2 * self.filled, 0);
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// Takes in what was read into the space; gives the status once the answer is whole.
    pub(crate) fn arrived(&mut self, bytes: usize) -> Result<Option<u16>> {
        if bytes == 0 {
            bail!("the server ended the connection");
        }
        self.filled += bytes;
        let all = &self.buffer[..self.filled];
        if self.head.is_none() {
            self.head = Head::of(all)?;
        }
        let whole = self.head.as_ref().filter(|head| head.is_whole(all));
        Ok(whole.map(|head| head.status))
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        let from = self.head.as_ref().map_or(self.filled, |head| head.bytes);
        &self.buffer[from..self.filled]
    }

    /// The same as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }
}

/// What the head of an answer says of the rest.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    /// `None`: chunked.
    content: Option<usize>,
}

impl Head {
    /// The head, once it is there whole.
    fn of(bytes: &[u8]) -> Result<Option<Head>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end]).context("the head is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let content = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let status = status.with_context(|| format!("no status: {head}"))?;
        Ok(Some(Head { status, bytes: end + 4, content }))
    }

    fn is_whole(&self, bytes: &[u8]) -> bool {
        match self.content {
            Some(content) => bytes.len() >= self.bytes + content,
            None => bytes.ends_with(b"0\r\n\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Head};

    #[test]
    fn a_head_says_where_the_answer_ends() {
        assert_eq!(Head::of(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let head = Head::of(whole).unwrap().unwrap();
        assert_eq!(head, Head { status: 200, bytes: 38, content: Some(2) });
        assert!(head.is_whole(whole) && !head.is_whole(&whole[..39]));
        let chunked = b"HTTP/1.1 503 Busy\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let head = Head::of(chunked).unwrap().unwrap();
        assert_eq!((head.status, head.content), (503, None));
        assert!(head.is_whole(chunked) && !head.is_whole(&chunked[..30]));
        assert!(Head::of(b"no http\r\n\r\n").is_err());
    }

    #[test]
    fn an_answer_that_comes_in_pieces_is_whole_with_the_last_one() {
        let mut answer = Answer::new();
        for (piece, status) in [
            ("HTTP/1.1 201 Created\r\ncontent-le", None),
            ("ngth: 3\r\n\r\nab", None),
            ("c", Some(201)),
        ] {
            answer.space().unwrap()[..piece.len()].copy_from_slice(piece.as_bytes());
            assert_eq!(answer.arrived(piece.len()).unwrap(), status);
        }
        assert_eq!(answer.text(), "abc");
        answer.begin();
        assert_eq!((answer.text(), answer.arrived(0).is_err()), (String::new(), true));
    }
}
