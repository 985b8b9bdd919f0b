//! Who waits for which sync, so that everybody is woken once.
//!
//! Syncs follow each other; each is a *turn*, led by one of those who need it. Whoever waits belongs to the turn that will
//! make its record durable: the one under way if that took the record in, else the next. When a turn ends, one of the next
//! group is woken first and leads, so that the device is not idle for long, and then all whose wait is over. Nobody else.

use crate::sync::{Condvar, Mutex, MutexGuard, wait, wait_at_most};
use std::time::Duration;

/// The turn under way or last ended, and how many wait; guarded by the lock of the state.
#[derive(Default)]
pub(super) struct Turns {
    turn: usize,
    /// The last record that the turn took in.
    taken: u64,
    /// How many wait for turns of even and of odd number: nobody is woken, by a system call, if there is none.
    waiting: [usize; 2],
}

impl Turns {
    /// The next turn begins, and takes in what there is up to the record `taken`.
    pub(super) fn begin(&mut self, taken: u64) {
        self.turn = self.turn.wrapping_add(1);
        self.taken = taken;
    }

    fn this(&self) -> usize {
        self.turn % 2
    }

    fn next(&self) -> usize {
        1 - self.this()
    }
}

/// Where they wait.
#[derive(Default)]
pub(super) struct Bench {
    changed: [Condvar; 2],
}

/// Who is to be woken, once the lock of the state is given back.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// One of this group is to lead.
    leader: Option<usize>,
    /// The wait of all of this group is over.
    over: Option<usize>,
}

impl Turns {
    /// The turn is over.
    pub(super) fn end(&self) -> Call {
        let waits = |group: usize| (self.waiting[group] > 0).then_some(group);
        Call { leader: waits(self.next()), over: waits(self.this()) }
    }

    /// How many will be woken because their wait is over.
    pub(super) fn over(&self) -> usize {
        self.waiting[self.this()]
    }

    /// Whoever was woken to lead does not.
    pub(super) fn pass_on(&self) -> Call {
        Call { over: None, ..self.end() }
    }
}

impl Bench {
    /// Waits, during a turn, until the record `seq` may be durable or somebody is needed to lead, at most for `limit`.
    pub(super) fn wait<'a, S>(
        &self,
        of: &'a Mutex<S>,
        mut state: MutexGuard<'a, S>,
        turns: impl Fn(&mut S) -> &mut Turns,
        seq: u64,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, S> {
        let present = turns(&mut state);
        let group = if seq <= present.taken { present.this() } else { present.next() };
        present.waiting[group] += 1;
        let changed = &self.changed[group];
        state = match limit {
            None => wait(changed, state),
            Some(limit) => wait_at_most(changed, of, state, limit),
        };
        turns(&mut state).waiting[group] -= 1;
        state
    }

    /// Wakes those who are called.
    pub(super) fn wake(&self, call: Call) {
        if let Some(group) = call.leader {
            self.changed[group].notify_one();
        }
        if let Some(group) = call.over {
            self.changed[group].notify_all();
        }
    }

    /// Wakes everybody who waits.
    pub(super) fn wake_all(&self, turns: &Turns) {
        for (changed, waiting) in self.changed.iter().zip(turns.waiting) {
            if waiting > 0 {
                changed.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_end_of_a_turn_all_of_it_are_called_and_one_of_the_next() {
        let mut turns = Turns::default();
        turns.begin(7);
        assert_eq!(turns.end(), Call { leader: None, over: None });
        let (this, next) = (turns.this(), turns.next());
        turns.waiting[this] = 3;
        assert_eq!(turns.end(), Call { leader: None, over: Some(this) });
        turns.waiting[next] = 2;
        assert_eq!(turns.end(), Call { leader: Some(next), over: Some(this) });
        assert_eq!(turns.pass_on(), Call { leader: Some(next), over: None });
        turns.begin(9);
        assert_eq!(turns.this(), next, "those who waited for the next turn wait for this one");
    }

    #[test]
    fn behind_the_last_number_of_a_turn_comes_the_first() {
        let mut turns = Turns { turn: usize::MAX, ..Turns::default() };
        let next = turns.next();
        turns.begin(7);
        assert_eq!((turns.turn, turns.this()), (0, next));
    }
}
