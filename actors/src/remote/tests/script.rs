//! A handler whose behaviour is chosen by the kind of the message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::{Envelope, Inbound, PAYLOAD_MAX, PeerId, ReplyFrame, WIRE_VERSION};

pub(crate) const ECHO: u16 = 1;
pub(crate) const PANIC: u16 = 2;
pub(crate) const NEVER: u16 = 3;
pub(crate) const BUMP: u16 = 4;
pub(crate) const COUNT: u16 = 5;
pub(crate) const LARGE: u16 = 6;
pub(crate) const WHO: u16 = 7;

#[derive(Default)]
pub(crate) struct Script {
    bumps: Arc<AtomicU64>,
}

impl Inbound for Script {
    fn call(&self, from: PeerId, envelope: Envelope) -> BoxFuture<'static, ReplyFrame> {
        let bumps = Arc::clone(&self.bumps);
        async move {
            match envelope.kind {
                ECHO => ReplyFrame::Ok(envelope.payload),
                PANIC => panic!("asked to"),
                NEVER => std::future::pending().await,
                BUMP => text(&(bumps.fetch_add(1, Ordering::SeqCst) + 1)),
                COUNT => text(&bumps.load(Ordering::SeqCst)),
                LARGE => ReplyFrame::Ok(Bytes::from(vec![0; PAYLOAD_MAX + 1])),
                WHO => text(&format!("{}.{}", from.node, from.incarnation)),
                _ => ReplyFrame::Unsupported { max_version: WIRE_VERSION },
            }
        }
        .boxed()
    }

    fn post(&self, _: PeerId, envelope: Envelope) {
        assert_eq!(envelope.kind, BUMP);
        self.bumps.fetch_add(1, Ordering::SeqCst);
    }
}

fn text(value: &dyn ToString) -> ReplyFrame {
    ReplyFrame::Ok(Bytes::from(value.to_string()))
}
