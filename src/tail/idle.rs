//! What a tail does while there is nothing to show.

use std::time::Duration;

use crate::sync::{hint, pass, thread};

/// How a [`Tail`](crate::Tail) waits for records that another process appends; those of its own process wake it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idle {
    /// Looks again at once: the shortest latency, for a core of its own.
    Spin,
    /// Gives the core to others between two looks.
    Yield,
    /// Sleeps so long between two looks.
    Sleep(Duration),
    /// Spins, then yields, then sleeps longer and longer, at most 1 ms.
    #[default]
    Backoff,
}

/// Looks before a [`Idle::Backoff`] yields, and before it sleeps.
const SPINS: u32 = 128;
const YIELDS: u32 = 256;
/// The first sleep and the longest.
const SHORTEST: Duration = Duration::from_micros(10);
const LONGEST: Duration = Duration::from_millis(1);

impl Idle {
    /// Passes the time between the `round`th look and the next, at most `left`.
    pub(crate) fn pause(self, round: u32, left: Duration) {
        match self {
            Self::Spin => hint::spin_loop(),
            Self::Backoff if round < SPINS => hint::spin_loop(),
            Self::Yield => thread::yield_now(),
            Self::Backoff if round < YIELDS => thread::yield_now(),
            Self::Sleep(time) => pass(time.min(left)),
            Self::Backoff => pass(sleep(round - YIELDS).min(left)),
        }
    }
}

/// How long the `n`th sleep of a [`Idle::Backoff`] is.
fn sleep(n: u32) -> Duration {
    SHORTEST.checked_mul(1 << n.min(10)).map_or(LONGEST, |time| time.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_to_a_millisecond_and_no_further() {
        assert_eq!(sleep(0), SHORTEST);
        assert_eq!(sleep(3), Duration::from_micros(80));
        assert_eq!([sleep(7), sleep(10), sleep(u32::MAX)], [LONGEST; 3]);
    }
}
