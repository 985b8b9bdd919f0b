//! Those who wait for durability by a waker, as futures do.
//!
//! A waker is user code: it may call the log, drop what waits, or panic. So none is woken or dropped under a lock; what is
//! due is put aside here, and taken out by whoever holds none.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Who waits, and who is to be woken.
#[derive(Default)]
pub(crate) struct Wakers {
    waiting: HashMap<u64, (u64, Waker)>,
    due: Vec<Waker>,
    next: u64,
}

impl Wakers {
    /// Lets `waiter`, a number given at its first call, be woken for `seq`; returns the waker that this replaces.
    pub(crate) fn wait(&mut self, waiter: &mut Option<u64>, seq: u64, waker: Waker) -> Option<Waker> {
        let number = *waiter.get_or_insert(self.next);
        self.next = self.next.max(number + 1);
        self.waiting.insert(number, (seq, waker)).map(|(_, replaced)| replaced)
    }

    /// Takes a waiter out that waits no more.
    pub(crate) fn forget(&mut self, waiter: u64) -> Option<Waker> {
        self.waiting.remove(&waiter).map(|(_, waker)| waker)
    }

    /// Whether anybody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts aside those who wait for no more than `seq`; whether there are any.
    pub(crate) fn durable(&mut self, seq: u64) -> bool {
        let done = self.waiting.extract_if(|_, (wanted, _)| *wanted <= seq);
        self.due.extend(done.map(|(_, (_, waker))| waker));
        !self.due.is_empty()
    }

    /// Puts everybody aside.
    pub(crate) fn everybody(&mut self) {
        self.due.extend(self.waiting.drain().map(|(_, (_, waker))| waker));
    }

    /// Those who are to be woken, for [`wake`].
    pub(crate) fn take_due(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.due)
    }
}

/// Wakes them, and returns how many panicked: one that does must not keep the others asleep.
pub(crate) fn wake(due: Vec<Waker>) -> u64 {
    due.into_iter().map(|waker| u64::from(!contained(|| waker.wake()))).sum()
}

/// Runs user code that must not unwind into the log, where a record may be published and not yet acknowledged; `false` if
/// it panicked, of which the panic hook has told.
pub(crate) fn contained(run: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(run)) else { return true };
    // What was thrown is user code, too, when it is dropped. What that throws is not even dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    false
}
