//! Where one request ends and the next begins, decided before the HTTP parser sees a byte.
//!
//! hyper is lenient where smugglers are at home: it takes a bare LF for a line end and lets
//! Transfer-Encoding win over Content-Length. Behind a proxy that reads the same bytes otherwise, that
//! is a second request nobody checked. So a head has exactly one meaning here, or it is refused.

use crate::http::error::Code;

/// Bytes of request line and header fields.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;
/// Header fields of one request.
pub(super) const HEADERS_MAX: usize = 100;

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a head, of which so many bytes have been looked at.
    Head {
        seen: usize,
    },
    /// So many bytes of body are missing.
    Fixed(u64),
    Chunked(Chunk),
    /// Framing is lost; nothing that follows may be read as a request.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { size: u64, digits: u32 },
    Extension { size: u64 },
    SizeEnd { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    TrailerEnd,
    LastLf,
}

/// What the buffered bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many of them belong to the current request and may be parsed.
    Pass(usize),
    /// So many of them mean nothing (an empty line before a request).
    Skip(usize),
    /// More bytes are needed to tell.
    More,
    /// They are no request; answer with this and close.
    Refuse(Code),
    /// They come after a body that was not framed and are never a request.
    End,
}

impl Framer {
    pub(super) fn new() -> Self {
        Self { state: State::Head { seen: 0 } }
    }

    /// Whether the next byte begins or continues a head.
    pub(super) fn in_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Looks at everything that was received and not yet passed on.
    pub(super) fn step(&mut self, received: &[u8]) -> Step {
        match self.state {
            State::Head { seen } => self.head(received, seen),
            State::Lost => Step::End,
            State::Fixed(_) | State::Chunked(_) if received.is_empty() => Step::More,
            State::Fixed(missing) => {
                let part = missing.min(received.len() as u64);
                self.state = match missing - part {
                    0 => State::Head { seen: 0 },
                    rest => State::Fixed(rest),
                };
                Step::Pass(part as usize)
            }
            State::Chunked(chunk) => self.chunked(received, chunk),
        }
    }

    fn head(&mut self, received: &[u8], seen: usize) -> Step {
        if received.starts_with(b"\r\n") {
            return Step::Skip(2);
        }
        for at in seen..received.len() {
            let byte = received[at];
            let after_cr = at > 0 && received[at - 1] == b'\r';
            let bad = match byte {
                b'\n' => !after_cr,
                b'\r' | b'\t' => after_cr,
                _ => after_cr || byte < b' ' || byte == 0x7f,
            };
            if bad {
                return Step::Refuse(Code::Malformed);
            }
            if at >= HEAD_BYTES_MAX {
                return Step::Refuse(Code::HeaderTooLarge);
            }
            if byte == b'\n' && received[..=at].ends_with(b"\r\n\r\n") {
                return self
                    .begin(&received[..at - 1])
                    .map_or_else(Step::Refuse, |()| Step::Pass(at + 1));
            }
        }
        self.state = State::Head { seen: received.len() };
        Step::More
    }

    /// Decides on the body. `head` is complete and ends with the line end of its last field.
    fn begin(&mut self, head: &[u8]) -> Result<(), Code> {
        let mut lines =
            head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let old = lines.next().is_some_and(|request| request.ends_with(b" HTTP/1.0"));
        let mut fields = Fields::default();
        for line in lines.filter(|line| !line.is_empty()) {
            fields.add(line)?;
        }
        self.state = fields.body(old)?;
        Ok(())
    }

    fn chunked(&mut self, received: &[u8], mut chunk: Chunk) -> Step {
        let mut at = 0;
        while at < received.len() {
            if let Chunk::Data(missing) = chunk {
                let part = missing.min((received.len() - at) as u64);
                at += part as usize;
                chunk = if missing == part { Chunk::DataCr } else { Chunk::Data(missing - part) };
                continue;
            }
            let byte = received[at];
            at += 1;
            if chunk == Chunk::LastLf && byte == b'\n' {
                self.state = State::Head { seen: 0 };
                return Step::Pass(at);
            }
            let Some(next) = chunk.next(byte) else {
                // The parser meets the same bytes and reports the broken body.
                self.state = State::Lost;
                return Step::Pass(at);
            };
            chunk = next;
        }
        self.state = State::Chunked(chunk);
        Step::Pass(at)
    }
}

impl Chunk {
    fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Size { size, digits: 1.. }, b'\r') => Some(Self::SizeEnd { size }),
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => {
                Some(Self::Extension { size })
            }
            (Self::Size { size, digits: 0..15 }, byte) => {
                let digit = char::from(byte).to_digit(16)?;
                let Self::Size { digits, .. } = self else { return None };
                Some(Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (Self::Extension { size }, b'\r') => Some(Self::SizeEnd { size }),
            (Self::Extension { size }, byte) => (byte != b'\n').then_some(Self::Extension { size }),
            (Self::SizeEnd { size: 0 }, b'\n') => Some(Self::LineStart),
            (Self::SizeEnd { size }, b'\n') => Some(Self::Data(size)),
            (Self::DataCr, b'\r') => Some(Self::DataLf),
            (Self::DataLf, b'\n') => Some(Self::Size { size: 0, digits: 0 }),
            (Self::LineStart, b'\r') => Some(Self::LastLf),
            (Self::Trailer, b'\r') => Some(Self::TrailerEnd),
            (Self::LineStart | Self::Trailer, byte) => (byte != b'\n').then_some(Self::Trailer),
            (Self::TrailerEnd, b'\n') => Some(Self::LineStart),
            (
                Self::Size { .. }
                | Self::SizeEnd { .. }
                | Self::Data(_)
                | Self::DataCr
                | Self::DataLf
                | Self::TrailerEnd
                | Self::LastLf,
                _,
            ) => None,
        }
    }
}

/// The header fields that decide how long a request is and whom it is for.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), Code> {
        self.count += 1;
        if self.count > HEADERS_MAX {
            return Err(Code::HeaderTooLarge);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Code::Malformed)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // A line that begins with a space continues the one before, in another decade.
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err(Code::Malformed);
        }
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            if !digits || self.length.is_some() {
                return Err(Code::Malformed);
            }
            self.length =
                Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || self.chunked {
                return Err(Code::Malformed);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn body(&self, old: bool) -> Result<State, Code> {
        let host_missing = self.hosts == 0 && !old;
        match (self.length, self.chunked) {
            _ if host_missing || self.hosts > 1 => Err(Code::Malformed),
            (Some(_), true) => Err(Code::Malformed),
            (None, true) if old => Err(Code::Malformed),
            (None, true) => Ok(State::Chunked(Chunk::Size { size: 0, digits: 0 })),
            (None | Some(0), false) => Ok(State::Head { seen: 0 }),
            (Some(length), false) => Ok(State::Fixed(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes in pieces of one size and writes down what each message is.
    fn transcript(bytes: &[u8], piece: usize) -> Vec<String> {
        let mut framer = Framer::new();
        let (mut received, mut passed, mut lines) = (Vec::new(), String::new(), Vec::new());
        for part in bytes.chunks(piece) {
            received.extend_from_slice(part);
            loop {
                match framer.step(&received) {
                    Step::More => break,
                    Step::End => return [lines, vec!["end".to_owned()]].concat(),
                    Step::Refuse(code) => return [lines, vec![format!("{code:?}")]].concat(),
                    Step::Skip(count) => drop(received.drain(..count)),
                    Step::Pass(count) => {
                        let bytes: Vec<u8> = received.drain(..count).collect();
                        passed.push_str(&String::from_utf8_lossy(&bytes));
                        if framer.in_head() {
                            lines.push(std::mem::take(&mut passed));
                        }
                    }
                }
            }
        }
        lines
    }

    fn check(text: &str, expected: &[&str]) {
        for piece in [1, 2, 3, 7, 10_000] {
            assert_eq!(transcript(text.as_bytes(), piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn requests_are_told_apart_in_any_cut() {
        check(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /x HTTP/1.1\r\nhost: b\r\n\r\n",
            &[
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
                "GET /x HTTP/1.1\r\nhost: b\r\n\r\n",
            ],
        );
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        let next = "GET / HTTP/1.0\r\n\r\n";
        check(&format!("{chunked}{next}"), &[chunked, next]);
    }

    #[test]
    fn a_head_with_two_meanings_is_refused() {
        for fields in [
            "Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
            "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3",
            "Host: a\r\nContent-Length: 3\r\nContent-Length: 4",
            "Host: a\r\nContent-Length: 3, 3",
            "Host: a\r\nContent-Length: -1",
            "Host: a\r\nContent-Length: +1",
            "Host: a\r\nContent-Length: 99999999999999999999",
            "Host: a\r\nTransfer-Encoding: gzip, chunked",
            "Host: a\r\nTransfer-Encoding : chunked",
            "Host: a\r\nX: 1\r\n folded: 2",
            "Host: a\nX: 1",
            "Host: a\r\nX: \0",
            "Host: a\r\nX: a\rb",
            "Host: a\r\nHost: b",
            "X: 1",
        ] {
            check(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n"), &["Malformed"]);
        }
        check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", &["Malformed"]);
        check("\u{16}\u{3}\u{1}", &["Malformed"]);
    }

    #[test]
    fn nothing_follows_a_broken_chunk() {
        for chunk in ["ffffffffffffffff1\r\n", "g\r\n", "3\r\nabcd\r\n", "3\nabc", "\r\n"] {
            let text = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            );
            check(&text, &["end"]);
        }
    }

    #[test]
    fn heads_are_bounded_in_bytes_and_fields() {
        let field = |length: usize| {
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(length))
        };
        assert_eq!(transcript(field(8 << 10).as_bytes(), 1000).len(), 1);
        assert_eq!(transcript(field(64 << 10).as_bytes(), 1000), ["HeaderTooLarge"]);
        let fields = |count: usize| {
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1))
        };
        assert_eq!(transcript(fields(100).as_bytes(), 1000).len(), 1);
        assert_eq!(transcript(fields(101).as_bytes(), 1000), ["HeaderTooLarge"]);
    }
}
