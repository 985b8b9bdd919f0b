//! An open loop: operations are due at fixed times, whether the one before is done or not.
//!
//! The latency of an operation counts from when it was due and not from when it was begun. So an operation that takes long
//! makes those late that were due meanwhile, as it would if they came from elsewhere; a loop that only times its own
//! calls would leave them out. (Gil Tene calls that coordinated omission, and wrk2 corrects it in this way.)

use std::time::Instant;

use crate::bench::latency::Latencies;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// When operations are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Operations a second.
    pub(crate) rate: u64,
    /// How many there are.
    pub(crate) count: u64,
}

impl Schedule {
    /// Operations at `rate` for so many milliseconds.
    pub(crate) fn lasting(rate: u64, millis: u64) -> Self {
        Self { rate, count: rate * millis / 1000 }
    }

    /// Nanoseconds from the start at which operation `n` is due, without an error that adds up.
    fn due(self, n: u64) -> u64 {
        n / self.rate * SECOND + n % self.rate * SECOND / self.rate
    }
}

/// What tells the time.
pub(crate) trait Clock {
    /// Nanoseconds since the start.
    fn now(&self) -> u64;
}

/// The time of this machine.
pub(crate) struct Real(Instant);

impl Real {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Real {
    #[inline]
    fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Carries out `operation` as often as the schedule says, each time when it is due or as soon after as can be.
#[inline]
pub(crate) fn run<E>(
    schedule: Schedule,
    clock: &impl Clock,
    latencies: &mut Latencies,
    mut operation: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    for n in 0..schedule.count {
        let due = schedule.due(n);
        while clock.now() < due {
            std::hint::spin_loop();
        }
        operation()?;
        latencies.record(clock.now() - due);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    /// A clock that goes on by itself a little with every look.
    struct Fake(Cell<u64>);

    impl Clock for Fake {
        fn now(&self) -> u64 {
            self.0.set(self.0.get() + 1);
            self.0.get()
        }
    }

    fn run_fake(schedule: Schedule, mut takes: impl FnMut(u64) -> u64) -> (Latencies, u64) {
        let (clock, mut latencies, mut n) = (Fake(Cell::new(0)), Latencies::new(), 0);
        let done: Result<(), Infallible> = run(schedule, &clock, &mut latencies, || {
            clock.0.set(clock.0.get() + takes(n));
            n += 1;
            Ok(())
        });
        assert_eq!(done, Ok(()));
        (latencies, clock.0.get())
    }

    #[test]
    fn operations_are_due_at_the_rate_and_the_error_does_not_grow() {
        let schedule = Schedule::lasting(3, 2_000_000);
        assert_eq!(schedule.count, 6000);
        assert_eq!([0, 1, 2, 3].map(|n| schedule.due(n)), [0, 333_333_333, 666_666_666, SECOND]);
        assert_eq!(schedule.due(6000), 2000 * SECOND);
    }

    #[test]
    fn a_loop_that_keeps_up_lasts_as_long_as_its_schedule() {
        let (latencies, end) = run_fake(Schedule { rate: 1_000_000, count: 1000 }, |_| 100);
        assert!((999_000..=1_000_200).contains(&end), "{end}");
        assert_eq!((latencies.over(1000), latencies.count()), (0, 1000));
    }

    #[test]
    fn a_stall_makes_all_that_were_due_in_it_late() {
        // 100 us in which 100 operations come due; each then takes 500 ns, so that half of the time goes to catching up.
        let stall = |n| if n == 100 { 100_000 } else { 500 };
        let (latencies, _) = run_fake(Schedule { rate: 1_000_000, count: 1000 }, stall);
        // The backlog shrinks by half a microsecond with each: 200 operations until it is gone.
        let late = latencies.over(1000);
        assert!((190..=210).contains(&late), "{late}");
        assert!(latencies.over(50_000) >= 90, "{}", latencies.over(50_000));
        // The loop that times its calls alone would have seen one.
        assert!(latencies.quantile(0.9) > 10_000);
    }

    #[test]
    fn a_failure_ends_the_loop() {
        let clock = Fake(Cell::new(0));
        let mut latencies = Latencies::new();
        let failed = run(Schedule { rate: 1000, count: 10 }, &clock, &mut latencies, || Err("failed"));
        assert_eq!((failed, latencies.count()), (Err("failed"), 0));
    }
}
