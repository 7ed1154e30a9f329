//! What crosses the wire between two gateways. Invariant: every length is checked before it is
//! used, and a released layout never changes; a new one gets the next version byte.

use bytes::{BufMut, Bytes};

/// The newest layout this build writes and reads.
pub const WIRE_VERSION: u8 = protocol::versions::ENVELOPE;
/// Above this a payload is legal but out of the ordinary: it delays small calls behind it.
pub const PAYLOAD_NORMAL_MAX: usize = 64 * 1024;
/// Above this a payload is refused by the sender. An oversize frame would end the session for all.
pub const PAYLOAD_MAX: usize = 512 * 1024;
/// The kind the transport keeps for its own probes; a handler never sees it.
pub const KIND_PROBE: u16 = 0;

const HEADER_BYTES: usize = 89;
const REPLY_HEADER_BYTES: usize = 10;
const FLAG_POST: u8 = 1;

/// One message to the gateway of another node.
///
/// The caller fills `kind`, `request_id`, `shard`, `expected_epoch`, `deadline_remaining_ms`,
/// `trace` and `payload`. The transport fills the rest when it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Layout of the payload's neighbours; [`WIRE_VERSION`] unless a test says otherwise.
    pub wire_version: u8,
    /// What the payload means. Zero is [`KIND_PROBE`].
    pub kind: u16,
    /// Chosen by the caller; comes back in the reply.
    pub request_id: u64,
    /// The node that sent it; filled by the transport.
    pub from_node: u64,
    /// The boot of the node that sent it; filled by the transport.
    pub from_incarnation: u64,
    /// The boot it is meant for. Zero: whichever is connected, filled in when sent.
    pub to_incarnation: u64,
    /// The shard it concerns, for kinds that concern one.
    pub shard: u32,
    /// The owner epoch the caller believes in.
    pub expected_epoch: u64,
    /// Time left for the answer. Zero means the default of two seconds; more than 30 s is cut.
    pub deadline_remaining_ms: u32,
    /// The sender's monotonic clock when it was sent; filled by the transport. Only ever compared
    /// with other readings of the same clock.
    pub sent_us: u64,
    /// Trace id, parent span id and flags of W3C trace context.
    pub trace: [u8; 25],
    /// The body, opaque to the transport.
    pub payload: Bytes,
}

/// What the gateway answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyFrame {
    /// The handler's answer.
    Ok(Bytes),
    /// This node, or this boot of it, does not own the shard. Nothing was done.
    NotOwner {
        /// The node believed to own it.
        leader_hint: Option<u64>,
        /// The epoch of that belief.
        epoch: u64,
    },
    /// Too much at once here. Nothing was done.
    Overloaded {
        /// When to try again.
        retry_after_ms: u32,
    },
    /// The time was up: before the handler began, or while it ran. The outcome is unknown.
    DeadlineExceeded,
    /// This node does not know the kind or the layout. Nothing was done.
    Unsupported {
        /// The newest layout it reads.
        max_version: u8,
    },
    /// The handler broke off. The outcome is unknown.
    Internal,
}

/// Whether the sender waits for the handler's answer or only for its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Call,
    Post,
}

/// Why bytes are not an envelope or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("layout {found} is not known")]
    Version { found: u8 },
    #[error("{bytes} bytes are not a whole frame")]
    Length { bytes: usize },
    #[error("tag {tag} is not known")]
    Tag { tag: u8 },
}

impl Envelope {
    /// An envelope with the default deadline and nothing said about shard, epoch or trace.
    pub fn new(kind: u16, request_id: u64, payload: Bytes) -> Self {
        Self {
            wire_version: WIRE_VERSION,
            kind,
            request_id,
            from_node: 0,
            from_incarnation: 0,
            to_incarnation: 0,
            shard: 0,
            expected_epoch: 0,
            deadline_remaining_ms: 0,
            sent_us: 0,
            trace: [0; 25],
            payload,
        }
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    pub(super) fn encode(&self, mode: Mode) -> Vec<u8> {
        let flags = if mode == Mode::Post { FLAG_POST } else { 0 };
        let mut out = Vec::with_capacity(self.encoded_len());
        out.put_u8(self.wire_version);
        out.put_u8(flags);
        out.put_u16(self.kind);
        out.put_u32(self.shard);
        out.put_u64(self.request_id);
        out.put_u64(self.from_node);
        out.put_u64(self.from_incarnation);
        out.put_u64(self.to_incarnation);
        out.put_u64(self.expected_epoch);
        out.put_u64(self.sent_us);
        out.put_u32(self.deadline_remaining_ms);
        out.put_slice(&self.trace);
        // The sender refuses payloads above PAYLOAD_MAX first, so the length always fits.
        out.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        out.put_slice(&self.payload);
        out
    }

    pub(super) fn decode(bytes: Vec<u8>) -> Result<(Self, Mode), DecodeError> {
        let short = DecodeError::Length { bytes: bytes.len() };
        let version = *bytes.first().ok_or(short)?;
        if version != WIRE_VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let mut fields = Fields(header);
        let (wire_version, flags) = (fields.u8(), fields.u8());
        let mut envelope = Self {
            wire_version,
            kind: fields.u16(),
            shard: fields.u32(),
            request_id: fields.u64(),
            from_node: fields.u64(),
            from_incarnation: fields.u64(),
            to_incarnation: fields.u64(),
            expected_epoch: fields.u64(),
            sent_us: fields.u64(),
            deadline_remaining_ms: fields.u32(),
            trace: fields.take(),
            payload: Bytes::new(),
        };
        let length = fields.u32() as usize;
        if length > PAYLOAD_MAX || bytes.len() - HEADER_BYTES != length {
            return Err(short);
        }
        envelope.payload = Bytes::from(bytes).slice(HEADER_BYTES..);
        let mode = if flags & FLAG_POST == 0 { Mode::Call } else { Mode::Post };
        Ok((envelope, mode))
    }

    /// The kind and request id of encoded bytes, without decoding them.
    pub(super) fn peek(bytes: &[u8]) -> Option<(u16, u64)> {
        let header = bytes.first_chunk::<16>()?;
        let mut fields = Fields(&header[2..]);
        let kind = fields.u16();
        fields.u32();
        Some((kind, fields.u64()))
    }
}

impl ReplyFrame {
    pub(super) fn encode(&self, request_id: u64) -> Vec<u8> {
        let body = if let Self::Ok(payload) = self { payload.len() } else { 17 };
        let mut out = Vec::with_capacity(REPLY_HEADER_BYTES + body);
        out.put_u8(WIRE_VERSION);
        out.put_u8(self.tag());
        out.put_u64(request_id);
        match self {
            Self::Ok(payload) => out.put_slice(payload),
            Self::NotOwner { leader_hint, epoch } => {
                out.put_u8(u8::from(leader_hint.is_some()));
                out.put_u64(leader_hint.unwrap_or_default());
                out.put_u64(*epoch);
            }
            Self::Overloaded { retry_after_ms } => out.put_u32(*retry_after_ms),
            Self::Unsupported { max_version } => out.put_u8(*max_version),
            Self::DeadlineExceeded | Self::Internal => {}
        }
        out
    }

    pub(super) fn decode(bytes: Vec<u8>) -> Result<(u64, Self), DecodeError> {
        let short = DecodeError::Length { bytes: bytes.len() };
        let version = *bytes.first().ok_or(short)?;
        if version != WIRE_VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let header = bytes.first_chunk::<REPLY_HEADER_BYTES>().ok_or(short)?;
        let tag = header[1];
        let request_id = Fields(&header[2..]).u64();
        let body = Bytes::from(bytes).slice(REPLY_HEADER_BYTES..);
        Ok((request_id, Self::decode_body(tag, body, short)?))
    }

    fn decode_body(tag: u8, body: Bytes, short: DecodeError) -> Result<Self, DecodeError> {
        let expected = match tag {
            0 => body.len().min(PAYLOAD_MAX),
            1 => 17,
            2 => 4,
            3 | 5 => 0,
            4 => 1,
            _ => return Err(DecodeError::Tag { tag }),
        };
        if body.len() != expected {
            return Err(short);
        }
        let mut fields = Fields(&body);
        Ok(match tag {
            0 => Self::Ok(body),
            1 => {
                let hinted = fields.u8() != 0;
                let leader = fields.u64();
                Self::NotOwner { leader_hint: hinted.then_some(leader), epoch: fields.u64() }
            }
            2 => Self::Overloaded { retry_after_ms: fields.u32() },
            3 => Self::DeadlineExceeded,
            4 => Self::Unsupported { max_version: fields.u8() },
            _ => Self::Internal,
        })
    }

    fn tag(&self) -> u8 {
        match self {
            Self::Ok(_) => 0,
            Self::NotOwner { .. } => 1,
            Self::Overloaded { .. } => 2,
            Self::DeadlineExceeded => 3,
            Self::Unsupported { .. } => 4,
            Self::Internal => 5,
        }
    }
}

/// Reads big-endian fields off the front. A read past the end yields zeros: the lengths are
/// checked before, so that cannot happen, and a decoder must not panic if it does.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = rest;
        *head
    }

    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Envelope {
        Envelope {
            from_node: 1,
            from_incarnation: 0x0102_0304_0506_0708,
            to_incarnation: 3,
            shard: 4,
            expected_epoch: 5,
            deadline_remaining_ms: 6,
            sent_us: 7,
            trace: [8; 25],
            ..Envelope::new(9, 10, Bytes::from_static(b"abc"))
        }
    }

    #[test]
    fn an_envelope_survives_the_wire_in_both_modes() {
        for mode in [Mode::Call, Mode::Post] {
            assert_eq!(Envelope::decode(sample().encode(mode)), Ok((sample(), mode)));
        }
        assert_eq!(Envelope::peek(&sample().encode(Mode::Call)), Some((9, 10)));
    }

    #[test]
    fn the_bytes_of_version_one_never_change() {
        let hex: String =
            sample().encode(Mode::Post).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "01010009",
            "00000004",
            "000000000000000a",
            "0000000000000001",
            "0102030405060708",
            "0000000000000003",
            "0000000000000005",
            "0000000000000007",
            "00000006",
            &"08".repeat(25),
            "00000003",
            "616263",
        ];
        assert_eq!(hex, expected.concat());
    }

    #[test]
    fn a_cut_or_padded_or_foreign_envelope_is_refused() {
        let whole = sample().encode(Mode::Call);
        for cut in 0..whole.len() {
            let refused = Envelope::decode(whole[..cut].to_vec());
            assert_eq!(refused, Err(DecodeError::Length { bytes: cut }));
        }
        let padded = [whole.as_slice(), &[0]].concat();
        assert!(Envelope::decode(padded).is_err());
        let foreign = [&[2], &whole[1..]].concat();
        assert_eq!(Envelope::decode(foreign), Err(DecodeError::Version { found: 2 }));
    }

    #[test]
    fn every_reply_survives_the_wire_and_no_cut_one_does() {
        let replies = [
            ReplyFrame::Ok(Bytes::from_static(b"fine")),
            ReplyFrame::NotOwner { leader_hint: Some(0), epoch: u64::MAX },
            ReplyFrame::NotOwner { leader_hint: None, epoch: 2 },
            ReplyFrame::Overloaded { retry_after_ms: 50 },
            ReplyFrame::DeadlineExceeded,
            ReplyFrame::Unsupported { max_version: 1 },
            ReplyFrame::Internal,
        ];
        for reply in replies {
            let bytes = reply.encode(77);
            assert_eq!(ReplyFrame::decode(bytes.clone()), Ok((77, reply)));
            assert!(ReplyFrame::decode(bytes[..9].to_vec()).is_err());
        }
        assert!(ReplyFrame::decode(vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1]).is_err());
        assert!(ReplyFrame::decode(vec![1, 9, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
