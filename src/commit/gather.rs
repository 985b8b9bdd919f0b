//! A leader that waits a moment for those who were woken with it, so that one sync serves all of them.
//!
//! Threads that append and wait, over and over, would else fall apart into two groups: while one is synced the other
//! appends, and each sync serves half of them. Whoever leads next therefore waits until as many records have come as
//! threads were woken, for as long as they keep coming: that takes some microseconds, and a sync a hundred. Where they do
//! not come, because they have other things to do or the processors have, it is tried ever more rarely.
//!
//! (PostgreSQL has such a delay as a setting, `commit_delay` with `commit_siblings`, and leaves its length to the user.)

use std::time::Duration;

use crate::sync::{Instant, thread};

/// If nobody comes for that part of the last sync's time, nobody is waited for any more: a thread that was woken takes
/// some ten microseconds until it has appended, a sync of a disk a hundred and more.
const PART: u32 = 4;
/// With a sync that is shorter, nothing is gained by waiting. (Under the model checker no time passes, so it is looked
/// a few times.)
const LONG: Duration = if cfg!(mmap_wal_shuttle) { Duration::ZERO } else { Duration::from_micros(50) };
/// For that long one is waited for, at most.
const LONGEST: Duration = Duration::from_millis(1);
/// Turns without an attempt, at most.
const LONGEST_PAUSE: u32 = 1024;

/// Whether it pays to wait for others before a turn.
#[derive(Default)]
pub(super) struct Gather {
    /// The last record when the last turn ended.
    from: u64,
    /// How many will append again, if they do what they did.
    expected: u64,
    /// For how long one is waited for.
    patience: Duration,
    /// Turns to go without an attempt.
    rest: u32,
    /// How many that will be once an attempt fails again.
    pause: u32,
}

impl Gather {
    /// A turn has ended that took `elapsed` and the wait of `woken` with it; the last record is `last`.
    pub(super) fn turn_ended(&mut self, last: u64, woken: usize, elapsed: Duration) {
        self.from = last;
        // And the leader itself.
        self.expected = if woken > 0 && elapsed >= LONG { woken as u64 + 1 } else { 0 };
        self.patience = (elapsed / PART).min(LONGEST);
    }

    /// The record to wait for before the next turn, if any, and for how long if nothing comes.
    pub(super) fn awaited(&mut self) -> Option<(u64, Duration)> {
        if self.expected == 0 {
            return None;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        Some((self.from + self.expected, self.patience))
    }

    /// After a wait of `took`, the last record is `last`.
    pub(super) fn note(&mut self, last: u64, took: Duration) {
        let came = last.saturating_sub(self.from);
        // Whoever gets the processor in between may keep it for as long as a hundred syncs take.
        let times = if took > self.patience * PART { 16 } else { 2 };
        let longer = (self.pause * times).clamp(1, LONGEST_PAUSE);
        self.pause = if came >= self.expected.div_ceil(2) { 0 } else { longer };
        self.rest = self.pause;
    }
}

/// Waits until `last` returns `awaited`, while it rises and for `patience` after it did; returns what it returned last.
pub(super) fn wait((awaited, patience): (u64, Duration), last: impl Fn() -> u64) -> u64 {
    let (mut found, mut since, mut looks) = (last(), Instant::now(), 0_u32);
    while found < awaited && !is_over(since, patience, looks) {
        // Those who are waited for may need this processor.
        thread::yield_now();
        let now = last();
        if now == found {
            looks += 1;
        } else {
            (found, since, looks) = (now, Instant::now(), 0);
        }
    }
    found
}

fn is_over(since: Instant, patience: Duration, looks: u32) -> bool {
    if cfg!(mmap_wal_shuttle) { looks >= 3 } else { since.elapsed() >= patience }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn whoever_was_alone_waits_for_nobody() {
        let mut gather = Gather::default();
        assert_eq!(gather.awaited(), None);
        gather.turn_ended(5, 0, LONG);
        assert_eq!(gather.awaited(), None);
    }

    #[test]
    fn after_a_long_turn_those_who_were_woken_are_waited_for_and_its_leader() {
        let mut gather = Gather::default();
        gather.turn_ended(5, 3, LONG);
        assert_eq!(gather.awaited(), Some((9, LONG / PART)));
        gather.turn_ended(5, 3, LONG - Duration::from_nanos(1));
        assert_eq!(gather.awaited(), None);
    }

    #[test]
    fn what_fails_is_tried_ever_more_rarely_and_what_succeeds_every_time() {
        let mut gather = Gather::default();
        let mut tries = |turns: usize, comes: u64| {
            let mut tried = 0;
            for _ in 0..turns {
                gather.turn_ended(100, 3, LONG);
                if gather.awaited().is_some() {
                    tried += 1;
                    gather.note(100 + comes, LONG);
                }
            }
            tried
        };
        assert_eq!(tries(10, 4), 10);
        assert_eq!(tries(10, 2), 10, "half of them is enough");
        // After 1, 2, 4, ... turns.
        assert_eq!(tries(1 + 2 + 3 + 5 + 9, 1), 5);
        assert_eq!(tries(100 * LONGEST_PAUSE as usize, 0) / 10, 10);
        assert!(tries(LONGEST_PAUSE as usize + 10, 4) >= 10);
    }

    #[test]
    fn where_the_processor_is_taken_away_it_is_not_tried_again_for_long() {
        let mut gather = Gather::default();
        let mut fails = |took| {
            gather.turn_ended(100, 3, LONG);
            gather.note(100, took);
            gather.rest
        };
        assert_eq!([LONG; 3].map(&mut fails), [1, 2, 4]);
        assert_eq!([LONG * 2; 3].map(&mut fails), [64, LONGEST_PAUSE, LONGEST_PAUSE]);
    }

    #[test]
    fn a_wait_ends_with_the_last_that_is_awaited_or_when_no_more_come() {
        let looked = Cell::new(0);
        let every_second = || {
            looked.set(looked.get() + 1);
            looked.get() / 2
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(wait((10, hour), every_second), 10);
        assert_eq!(looked.get(), 20);
        looked.set(0);
        let five = || {
            looked.set(looked.get() + 1);
            looked.get().min(5)
        };
        // However short that is on a machine that has other things to do.
        assert!(wait((10, LONG), five) <= 5);
        assert_eq!(wait((10, Duration::ZERO), || 5), 5);
        assert_eq!(wait((4, LONG), || 7), 7);
    }
}
