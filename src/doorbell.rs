//! How a thread of the log's own is called.

use std::time::Duration;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait, wait_while_at_most};

/// Why a wait for a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Somebody rang.
    Rung,
    /// Nobody did, for as long as was waited.
    Quiet,
    /// There will be nothing more to do.
    Over,
}

#[derive(Default)]
struct State {
    rung: bool,
    over: bool,
}

/// One thread waits, any thread rings.
#[derive(Default)]
pub(crate) struct Doorbell {
    state: Mutex<State>,
    changed: Condvar,
    /// Rung and not answered: ringing again costs one look.
    asked: AtomicBool,
}

impl Doorbell {
    /// Calls the thread; a call is not lost when it is busy.
    pub(crate) fn ring(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            self.state().rung = true;
            self.changed.notify_one();
        }
    }

    /// Says that there will be nothing more to do.
    pub(crate) fn end(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    /// Waits until somebody rings, at most for `patience` if that is given.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> Call {
        let idle = |state: &mut State| !state.rung && !state.over;
        let mut state = self.state();
        if let Some(patience) = patience {
            state = wait_while_at_most(&self.changed, &self.state, state, patience, idle);
        }
        while patience.is_none() && idle(&mut state) {
            state = wait(&self.changed, state);
        }
        let rung = std::mem::take(&mut state.rung);
        // Whoever finds it set has rung before this, and what there is to do is looked for after it.
        self.asked.store(false, Ordering::Release);
        match (state.over, rung) {
            (true, _) => Call::Over,
            (false, true) => Call::Rung,
            (false, false) => Call::Quiet,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_nobody_waited_for_is_answered_once() {
        let bell = Doorbell::default();
        bell.ring();
        bell.ring();
        assert_eq!(bell.wait(None), Call::Rung);
        assert_eq!(bell.wait(Some(Duration::ZERO)), Call::Quiet);
        bell.ring();
        assert_eq!(bell.wait(None), Call::Rung);
    }

    #[test]
    fn the_end_goes_before_every_other_call() {
        let bell = Doorbell::default();
        bell.ring();
        bell.end();
        assert_eq!(bell.wait(None), Call::Over);
        assert_eq!(bell.wait(None), Call::Over);
    }
}
