//! A mailbox with a limit. Invariant: no more than `bound` messages are waiting or being handled
//! behind all clones of one [`BoundedRef`], although ractor's own mailbox grows without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ractor::{ActorRef, Message};

/// A handle to an actor that says no instead of queueing without end.
///
/// The actor's message type is [`Counted<M>`]; it opens each one with [`Counted::open`] and keeps
/// the [`Slot`] for as long as the message should count.
pub struct BoundedRef<M: Send + 'static> {
    actor: ActorRef<Counted<M>>,
    depth: Arc<AtomicUsize>,
    bound: usize,
}

/// Why a message did not reach the mailbox. It was not handled and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The mailbox holds as many messages as it may.
    #[error("mailbox is full: {bound} of {bound} messages are waiting")]
    Overloaded {
        /// The limit of the mailbox.
        bound: usize,
    },
    /// The actor has stopped; whoever owns its work now is another one.
    #[error("the actor has stopped")]
    Stopped,
}

/// A message that occupies a place in its mailbox. Local only: it has no wire form.
#[derive(Debug)]
pub struct Counted<M> {
    message: M,
    slot: Slot,
}

/// A place in a mailbox; dropping it makes room for the next message.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl<M: Send + 'static> Message for Counted<M> {}

impl<M> Counted<M> {
    /// Takes the message out. Hold the slot while handling to bound work in progress as well, or
    /// drop it at once to bound only what waits.
    pub fn open(self) -> (M, Slot) {
        (self.message, self.slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<M: Send + 'static> BoundedRef<M> {
    /// Puts a bound in front of `actor`. Clone the result rather than wrapping the actor twice:
    /// each wrapping counts for itself.
    pub fn new(actor: ActorRef<Counted<M>>, bound: usize) -> Self {
        Self { actor, depth: Arc::new(AtomicUsize::new(0)), bound }
    }

    /// Hands the message to the actor, or says why not. Never waits.
    pub fn try_send(&self, message: M) -> Result<(), NotSent> {
        let slot = self.reserve().ok_or(NotSent::Overloaded { bound: self.bound })?;
        self.actor.send_message(Counted { message, slot }).map_err(|_| NotSent::Stopped)
    }

    /// How many messages wait or are being handled.
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Acquire)
    }

    /// The most that [`Self::depth`] can be.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// The actor behind the bound, to stop, kill or watch it.
    pub fn actor(&self) -> &ActorRef<Counted<M>> {
        &self.actor
    }

    /// A place among the messages, for work that is done beside the actor; `None` when there is none.
    pub fn reserve(&self) -> Option<Slot> {
        let free = |depth| (depth < self.bound).then_some(depth + 1);
        self.depth.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).ok()?;
        Some(Slot(Arc::clone(&self.depth)))
    }
}

impl<M: Send + 'static> Clone for BoundedRef<M> {
    fn clone(&self) -> Self {
        Self { actor: self.actor.clone(), depth: Arc::clone(&self.depth), bound: self.bound }
    }
}

impl<M: Send + 'static> std::fmt::Debug for BoundedRef<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundedRef")
            .field("actor", &self.actor.get_id())
            .field("depth", &self.depth())
            .field("bound", &self.bound)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{BoundedRef, Counted, NotSent};
    use ractor::{Actor, ActorProcessingErr, ActorRef};
    use tokio::sync::mpsc;

    /// Handles one message for each permit it is sent.
    struct Gated;

    impl Actor for Gated {
        type Msg = Counted<u8>;
        type State = (mpsc::Receiver<()>, mpsc::Sender<u8>);
        type Arguments = Self::State;

        async fn pre_start(
            &self,
            _: ActorRef<Self::Msg>,
            channels: Self::Arguments,
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(channels)
        }

        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            message: Self::Msg,
            (gate, handled): &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            gate.recv().await;
            let (message, slot) = message.open();
            drop(slot);
            handled.send(message).await?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_and_a_handled_message_makes_room() {
        let (gate, gated) = mpsc::channel(8);
        let (handled, mut seen) = mpsc::channel(8);
        let (actor, join) = Actor::spawn(None, Gated, (gated, handled)).await.unwrap();
        let mailbox = BoundedRef::new(actor, 2);

        assert_eq!(mailbox.try_send(1), Ok(()));
        assert_eq!(mailbox.clone().try_send(2), Ok(()));
        assert_eq!(mailbox.try_send(3), Err(NotSent::Overloaded { bound: 2 }));
        assert_eq!(mailbox.depth(), 2);

        gate.send(()).await.unwrap();
        assert_eq!(seen.recv().await, Some(1));
        assert_eq!(mailbox.try_send(4), Ok(()));

        mailbox.actor().kill();
        join.await.unwrap();
        assert_eq!(mailbox.try_send(5), Err(NotSent::Stopped));
        assert_eq!(mailbox.depth(), 0, "messages that die with the actor give their places back");
    }
}
