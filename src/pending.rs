//! Records that are published and on their way to the disk.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::append::Seqs;
use crate::engine::Engine;
use crate::error::Result;

/// The durability of what [`submit`](crate::Wal::submit) published: wait for it, or await it under any executor.
///
/// Dropping it changes nothing: the records stay published and become durable with the next sync. In a child of `fork` it
/// tells nothing: it is never durable, and to wait for it is [`Error::Forked`](crate::Error::Forked).
#[must_use = "the records are published, but nothing says when they are durable"]
pub struct Pending {
    engine: Arc<Engine>,
    seqs: Seqs,
    epoch: usize,
    waiter: Option<u64>,
}

impl Pending {
    pub(crate) fn new(engine: Arc<Engine>, seqs: Seqs, epoch: usize) -> Self {
        Self { engine, seqs, epoch, waiter: None }
    }

    /// The sequence numbers that were given.
    #[must_use]
    pub fn seqs(&self) -> Seqs {
        self.seqs
    }

    /// Whether the records are durable now; not if they were cut off.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.engine.owner.is_current() && self.engine.commit.is_durable(self.last(), self.epoch)
    }

    /// Waits until the records are durable, syncing if nobody else does.
    ///
    /// # Errors
    /// [`Error::Poisoned`](crate::Error::Poisoned) if a sync failed,
    /// [`Error::TruncatedBack`](crate::Error::TruncatedBack) if the records were cut off,
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn wait(self) -> Result<Seqs> {
        self.engine.owner.check()?;
        self.engine.sync_to(self.last(), self.epoch)?;
        Ok(self.seqs)
    }

    /// As [`Pending::wait`], but gives up after `patience` and returns `None`; a sync that was begun is finished first.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn wait_timeout(&self, patience: Duration) -> Result<Option<Seqs>> {
        self.engine.owner.check()?;
        let durable = self.engine.sync_within(self.last(), self.epoch, patience)?;
        Ok(durable.then_some(self.seqs))
    }

    fn last(&self) -> u64 {
        self.seqs.last().unwrap_or(0)
    }
}

/// Resolves when the records are durable; needs [`Background::Thread`](crate::Background::Thread), or another call that
/// makes them durable: [`maintain`](crate::Wal::maintain), [`sync`](crate::Wal::sync), an append that fills the window of
/// `Batch`, [`Pending::wait`] of a later record, or any other.
impl Future for Pending {
    type Output = Result<Seqs>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Err(e) = this.engine.owner.check() {
            return Poll::Ready(Err(e));
        }
        let last = this.last();
        match this.engine.commit.poll(last, this.epoch, &mut this.waiter, context.waker()) {
            Ok(true) => Poll::Ready(Ok(this.seqs)),
            Ok(false) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.filter(|_| self.engine.owner.is_current()) {
            self.engine.commit.forget(waiter);
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("seqs", &self.seqs).finish_non_exhaustive()
    }
}
