//! Frames: `len u32, kind u8, id u64, group u32, body`, little-endian; `len` counts what follows it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use protocol::GroupId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest frame. A blob of 256 documents of 20,000 characters fits.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
const HEAD_BYTES: usize = 1 + 8 + 4;
/// The kind of an answer.
pub(super) const ANSWER: u8 = 0x80;
/// The kind of a refusal; its body is a text.
pub(super) const REFUSAL: u8 = 0x81;

/// One request or answer.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) id: u64,
    pub(super) group: GroupId,
    pub(super) body: Bytes,
}

impl Frame {
    /// Appends the frame's bytes, without the body when that is large enough to be written apart.
    pub(super) fn put_head(&self, out: &mut BytesMut) {
        let len = (HEAD_BYTES + self.body.len()) as u32;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&[self.kind]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.group.0.to_le_bytes());
    }
}

/// Reads the next frame, of `max` bytes at most; `None` at the end of the stream.
pub(super) async fn read<R: AsyncRead + Unpin>(
    input: &mut R,
    max: usize,
) -> io::Result<Option<Frame>> {
    let mut len = [0; 4];
    match input.read_exact(&mut len).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = u32::from_le_bytes(len) as usize;
    if !(HEAD_BYTES..=max).contains(&len) {
        let what = format!("frame of {len} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // Grows with what arrives, so that a length alone allocates little.
    let mut body = BytesMut::with_capacity(len.min(64 * 1024));
    while body.len() < len {
        let mut rest = input.take((len - body.len()) as u64);
        if rest.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut body = body.freeze();
    let kind = body.get_u8();
    let id = body.get_u64_le();
    let group = GroupId(body.get_u32_le());
    Ok(Some(Frame { kind, id, group, body }))
}

/// Writes everything that waits, small frames in one piece.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    output: &mut W,
    frames: &mut Vec<Frame>,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    /// Bodies up to this are copied into the buffer, so that a head is no TLS record of its own;
    /// larger ones are written from where they are.
    const COPIED_MAX: usize = 64 * 1024;
    for frame in frames.drain(..) {
        frame.put_head(buffer);
        if frame.body.len() <= COPIED_MAX {
            buffer.extend_from_slice(&frame.body);
            continue;
        }
        output.write_all(buffer).await?;
        buffer.clear();
        output.write_all(&frame.body).await?;
    }
    output.write_all(buffer).await?;
    buffer.clear();
    output.flush().await
}
