//! User code that runs inside an append: it must not call the same log.

use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::this_thread;

/// The thread that is in a callback, while one is; 0 otherwise.
#[derive(Default)]
pub(crate) struct Callback(AtomicUsize);

impl Callback {
    /// Marks that this thread runs user code, under the writer's lock, until what is returned is dropped.
    pub(crate) fn enter(&self) -> Inside<'_> {
        self.0.store(this_thread(), Ordering::Relaxed);
        Inside(self)
    }

    /// Refuses a call from the callback: it would wait for itself.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let thread = self.0.load(Ordering::Relaxed);
        if thread != 0 && thread == this_thread() { Err(Error::Reentrant) } else { Ok(()) }
    }
}

/// This thread runs user code.
pub(crate) struct Inside<'a>(&'a Callback);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}
