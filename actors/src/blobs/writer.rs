//! The thread that writes blobs: those that come at a time are written one after another and synced
//! together. Invariant: nothing of a pack whose write or sync has failed is believed; the next blob begins
//! another pack.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use protocol::{Digest, TenantId};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::index::{Index, Place};
use super::pack::{self, HEAD_BYTES, Head};

/// Blobs that wait for the thread. Beyond it those who store wait.
const ORDERS_MAX: usize = 64;
/// Bytes after which no more are synced together.
const BATCH_BYTES: usize = 8 << 20;
/// A pack that has so many is sealed.
const PACK_BYTES: u32 = 64 << 20;
/// Shorter pieces are written together.
const BUFFER_BYTES: usize = 256 << 10;

/// The way to the thread, which ends with it.
#[derive(Debug)]
pub(super) struct Writer {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Order {
    head: Head,
    content: Bytes,
    /// It is written though it is here.
    again: bool,
    done: oneshot::Sender<io::Result<()>>,
}

impl Writer {
    /// The first pack that is begun has the number `next`.
    pub(super) fn start(dir: PathBuf, next: u32, index: Arc<Index>) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let packer = Packer { dir, next, index, pack: None };
        let thread = std::thread::Builder::new().name("skep-blobs".to_owned());
        let thread = thread.spawn(move || packer.run(queue))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Durable on return.
    pub(super) async fn write(
        &self,
        tenant: TenantId,
        digest: Digest,
        content: Bytes,
    ) -> io::Result<()> {
        self.order(Head::of(tenant, digest, &content), content, false).await
    }

    /// Writes a blob that is here to the newest pack.
    pub(super) async fn again(&self, head: Head, content: Bytes) -> io::Result<()> {
        self.order(head, content, true).await
    }

    async fn order(&self, head: Head, content: Bytes, again: bool) -> io::Result<()> {
        let ended = || io::Error::other("no blob is written any more");
        let (done, written) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or_else(ended)?;
        orders.send(Order { head, content, again, done }).await.map_err(|_| ended())?;
        written.await.map_err(|_| ended())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that writes blobs panicked");
        }
    }
}

struct Packer {
    dir: PathBuf,
    next: u32,
    index: Arc<Index>,
    pack: Option<Open>,
}

/// The pack that is written.
struct Open {
    number: u32,
    file: BufWriter<File>,
    heads: Vec<Head>,
    bytes: u32,
}

impl Packer {
    fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(first) = orders.blocking_recv() {
            let mut bytes = first.content.len();
            let mut batch = vec![first];
            while bytes < BATCH_BYTES
                && let Ok(next) = orders.try_recv()
            {
                bytes += next.content.len();
                batch.push(next);
            }
            self.serve(batch);
        }
        if let Some(pack) = self.pack.take() {
            self.seal(pack);
        }
    }

    fn serve(&mut self, batch: Vec<Order>) {
        let written = self.write(&batch).inspect_err(|error| {
            warn!(%error, blobs = batch.len(), "blobs not written");
        });
        for order in batch {
            let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
            // Whoever waits for it may have given up.
            let _ = order.done.send(written.as_ref().map(|_| ()).map_err(copy));
        }
    }

    fn write(&mut self, batch: &[Order]) -> io::Result<()> {
        let mut seen = BTreeSet::new();
        let new = batch.iter().filter(|Order { head, again, .. }| {
            let is_new = *again || !self.index.wish(head.tenant, head.digest);
            is_new && seen.insert((head.tenant, head.digest))
        });
        let new: Vec<&Order> = new.collect();
        if new.is_empty() {
            return Ok(());
        }
        // A pack is put back when all that is in it is durable.
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.begin()?,
        };
        let written = pack.append(&new);
        let places = written.inspect_err(|_| self.index.close(pack.number))?;
        for (order, place) in new.iter().zip(places) {
            self.index.insert(&order.head, place);
        }
        if pack.bytes < PACK_BYTES {
            self.pack = Some(pack);
        } else {
            self.seal(pack);
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<Open> {
        let number = self.next;
        // A number is used once, whatever becomes of its pack.
        self.next += 1;
        let file = pack::create(&self.dir, number)?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Open { number, file, heads: Vec::new(), bytes: 0 })
    }

    /// A pack without a seal is as good, and is sealed at the next start.
    fn seal(&self, mut pack: Open) {
        let seal = pack::seal(pack.heads.iter().copied());
        let sealed = pack.file.write_all(&seal).and_then(|()| pack.sync());
        if let Err(error) = sealed {
            warn!(%error, pack = pack.number, "pack of blobs not sealed");
        }
        self.index.close(pack.number);
    }
}

impl Open {
    /// Durable on return.
    fn append(&mut self, orders: &[&Order]) -> io::Result<Vec<Place>> {
        let mut places = Vec::with_capacity(orders.len());
        for Order { head, content, .. } in orders {
            self.file.write_all(&head.encode())?;
            self.file.write_all(content)?;
            let at = self.bytes + HEAD_BYTES as u32;
            places.push(Place::of(head, self.number, at));
            self.heads.push(*head);
            self.bytes = at + head.bytes;
        }
        self.sync()?;
        Ok(places)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}
