//! Which stretches of a map were brought in: asking the system for each record would cost a call for each.

use std::ops::Range;

use crate::sync::Counter;
use crate::sync::atomic::Ordering;

/// How much is brought in at once, in bytes.
const STRETCH: usize = 1 << 20;

/// One bit for every stretch of a map.
pub(crate) struct Presence(Box<[Counter]>);

impl Presence {
    /// Of a map of `len` bytes, none of which was brought in.
    pub(crate) fn none(len: usize) -> Self {
        let words = len.div_ceil(STRETCH).div_ceil(u64::BITS as usize);
        Self((0..words).map(|_| Counter::new(0)).collect())
    }

    /// Brings the bytes of `range`, which lies in the map, in by `call`: by whole stretches, each once. Of a stretch that
    /// does not come whole, because of a page that cannot be read, what is wanted may come.
    ///
    /// # Errors
    /// Those of `call` for what is wanted.
    pub(crate) fn bring_in<E>(
        &self,
        range: Range<usize>,
        call: impl Fn(Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.holds(&range) { Ok(()) } else { self.bring_missing(range, call) }
    }

    /// Whether all of `range` was brought in: asked for every record, of which most lie in one stretch.
    fn holds(&self, range: &Range<usize>) -> bool {
        (range.start / STRETCH..range.end.div_ceil(STRETCH)).all(|stretch| self.has(stretch))
    }

    /// The end of the stretch of `at` if that was brought in, and `at` if not.
    pub(crate) fn holds_from(&self, at: usize) -> usize {
        let stretch = at / STRETCH;
        let is_one = stretch / (u64::BITS as usize) < self.0.len();
        if is_one && self.has(stretch) { (stretch + 1) * STRETCH } else { at }
    }

    fn has(&self, stretch: usize) -> bool {
        self.word(stretch).load(Ordering::Acquire) & bit(stretch) != 0
    }

    #[cold]
    fn bring_missing<E>(&self, range: Range<usize>, call: impl Fn(Range<usize>) -> Result<(), E>) -> Result<(), E> {
        for stretch in self.missing(range.clone()) {
            match call(stretch.clone()) {
                Ok(()) => self.note(&stretch),
                Err(_) => call(range.start.max(stretch.start)..range.end.min(stretch.end))?,
            }
        }
        Ok(())
    }

    fn missing(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let stretches = range.start / STRETCH..range.end.div_ceil(STRETCH);
        let absent = stretches.filter(|stretch| !self.has(*stretch));
        absent.map(|stretch| stretch * STRETCH..(stretch + 1) * STRETCH)
    }

    fn note(&self, stretch: &Range<usize>) {
        let number = stretch.start / STRETCH;
        self.word(number).fetch_or(bit(number), Ordering::AcqRel);
    }

    fn word(&self, stretch: usize) -> &Counter {
        &self.0[stretch / u64::BITS as usize]
    }
}

fn bit(stretch: usize) -> u64 {
    1 << (stretch % u64::BITS as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_brought_in_is_not_asked_for_again() {
        let presence = Presence::none(100 * STRETCH);
        let range = 65 * STRETCH - 1..66 * STRETCH + 1;
        let missing: Vec<_> = presence.missing(range.clone()).collect();
        assert_eq!(missing, [64, 65, 66].map(|number| number * STRETCH..(number + 1) * STRETCH));
        presence.note(&missing[1]);
        assert_eq!(presence.missing(range).count(), 2);
        assert_eq!(presence.missing(0..0).count(), 0);
        let froms = [65 * STRETCH - 1, 64 * STRETCH, 65 * STRETCH, 128 * STRETCH].map(|at| presence.holds_from(at));
        assert_eq!(froms, [65 * STRETCH - 1, 64 * STRETCH, 66 * STRETCH, 128 * STRETCH]);
    }

    #[test]
    fn of_a_stretch_that_does_not_come_whole_what_is_wanted_comes() {
        let presence = Presence::none(3 * STRETCH);
        let bad = STRETCH + 8192;
        let call = |bytes: Range<usize>| if bytes.contains(&bad) { Err(bytes) } else { Ok(()) };
        for _ in 0..2 {
            assert_eq!(presence.bring_in(STRETCH - 8..bad, call), Ok(()));
            assert_eq!(presence.bring_in(bad - 8..bad + 8, call), Err(bad - 8..bad + 8));
        }
        assert_eq!(presence.missing(0..3 * STRETCH).count(), 2);
    }
}
