//! How threads meet: locks, conditions, atomics, threads and the clock of those who wait.
//!
//! They are those of `std`. Under `--cfg mmap_wal_shuttle` they are those of a model checker, which runs one thread at a
//! time and decides at each of them who goes on, so that a test can go through many orders and repeat any. Three things
//! stay as they are: `Arc` and `OnceLock`, by which nobody waits; counters that nobody acts upon; and the words and the
//! published position of a map, which are memory shared with other processes.
//!
//! Under the model checker no time passes while a thread waits. A wait with a limit ends in one of two ways, by chance: at
//! once, as if the time were up, or by a wake-up alone, so that one that is lost is still a deadlock and is found.

#[cfg(not(mmap_wal_shuttle))]
mod system {
    pub(crate) use std::hint;
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use std::thread::{self, sleep as pass};
    pub(crate) use std::time::Instant;

    use super::PoisonError;
    use std::time::Duration;

    /// Waits for `changed`, for at most `limit`; `_of` is the mutex of `guard`.
    pub(crate) fn wait_at_most<'a, T>(
        changed: &Condvar,
        _of: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> MutexGuard<'a, T> {
        changed.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// As [`wait_at_most`], while `holds`.
    pub(crate) fn wait_while_at_most<'a, T>(
        changed: &Condvar,
        _of: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        limit: Duration,
        holds: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        changed.wait_timeout_while(guard, limit, holds).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A number that no other living thread has, and that is not 0.
    pub(crate) fn this_thread() -> usize {
        thread_local!(static MARK: u8 = const { 0 });
        MARK.with(|mark| std::ptr::from_ref(mark).addr())
    }
}

#[cfg(mmap_wal_shuttle)]
mod system {
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::{hint, thread};

    use super::{lock, wait};
    use shuttle::rand::{Rng, thread_rng};
    use std::cell::Cell;
    use std::time::Duration;

    thread_local!(static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) });

    /// A time of the clock that goes on only when the time of somebody who waits is up.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Instant(Duration);

    impl Instant {
        pub(crate) fn now() -> Self {
            Self(CLOCK.get())
        }

        pub(crate) fn elapsed(self) -> Duration {
            Self::now().saturating_duration_since(self)
        }

        pub(crate) fn checked_add(self, more: Duration) -> Option<Self> {
            self.0.checked_add(more).map(Self)
        }

        pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    /// Waits for `changed`, or until time is up, as chance will have it.
    pub(crate) fn wait_at_most<'a, T>(
        changed: &Condvar,
        of: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> MutexGuard<'a, T> {
        if thread_rng().gen_bool(0.5) { wait(changed, guard) } else { time_is_up(of, guard, limit) }
    }

    /// As [`wait_at_most`], while `holds`.
    pub(crate) fn wait_while_at_most<'a, T>(
        changed: &Condvar,
        of: &'a Mutex<T>,
        mut guard: MutexGuard<'a, T>,
        limit: Duration,
        mut holds: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while holds(&mut guard) {
            if thread_rng().gen_bool(0.5) {
                return time_is_up(of, guard, limit);
            }
            guard = wait(changed, guard);
        }
        guard
    }

    fn time_is_up<'a, T>(of: &'a Mutex<T>, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
        drop(guard);
        pass(limit);
        lock(of)
    }

    /// Lets `time` pass.
    pub(crate) fn pass(time: Duration) {
        CLOCK.set(CLOCK.get().saturating_add(time));
        // Others were running all the while: one who waits again and again must not keep them from it.
        thread::yield_now();
    }

    /// A number that no other living thread has, and that is not 0.
    pub(crate) fn this_thread() -> usize {
        usize::from(thread::current().id()) + 1
    }
}

pub(crate) use std::sync::atomic::AtomicU64 as Counter;
pub(crate) use std::sync::{Arc, OnceLock, PoisonError, TryLockError, Weak};
pub(crate) use system::{
    Condvar, Instant, Mutex, MutexGuard, atomic, hint, pass, this_thread, thread, wait_at_most, wait_while_at_most,
};

/// Locks `mutex`; a panic in user code leaves what it guards whole, so such poisoning means nothing here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `changed`.
pub(crate) fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
