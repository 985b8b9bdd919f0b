//! What attempts to append have asked for that may not wait for a segment.

use crate::error::{Error, Result};
use crate::sync::{Mutex, lock};

/// The segment that was asked for, and what came of it; the lock is never held over a system call.
#[derive(Default)]
pub(crate) struct Asked(Mutex<State>);

#[derive(Default)]
struct State {
    /// Bytes of frames that it is to hold; 0 if nothing was asked for.
    need: usize,
    /// Why the log's thread could not make it.
    refusal: Option<Error>,
}

impl Asked {
    /// Asks for a segment that holds `need` bytes of frames, of whoever prepares the next one.
    ///
    /// # Errors
    /// Why the log's thread could not make what was asked for before; told once.
    pub(crate) fn ask(&self, need: usize) -> Result<()> {
        let mut state = lock(&self.0);
        state.need = state.need.max(need);
        state.refusal.take().map_or(Ok(()), Err)
    }

    /// How many bytes of frames were asked for; 0 if none.
    pub(crate) fn need(&self) -> usize {
        lock(&self.0).need
    }

    /// There is a segment for `need` bytes of frames.
    pub(crate) fn answer(&self, need: usize) {
        let mut state = lock(&self.0);
        // More may have been asked for since.
        if state.need <= need {
            *state = State::default();
        }
    }

    /// What was asked for cannot be made: who asks next is told. A log that refuses to write says so by itself.
    pub(crate) fn refuse(&self, e: Error) {
        let mut state = lock(&self.0);
        if state.need > 0 && !matches!(e, Error::Poisoned(_) | Error::Closed) {
            state.refusal = Some(e);
        }
    }
}
