//! Numbers whose records are lost for good.

use std::collections::BTreeMap;

/// Ranges of numbers that neither touch nor overlap: the last number of each by its first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps(BTreeMap<u64, u64>);

impl Gaps {
    /// Adds the numbers from `first` to `last`.
    pub(crate) fn add(&mut self, mut first: u64, mut last: u64) {
        let touching = |(from, to): (&u64, &u64)| (*to + 1 >= first).then_some((*from, *to));
        let old: Vec<(u64, u64)> = self.0.range(..=last + 1).rev().map_while(touching).collect();
        for (from, to) in old {
            self.0.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.0.insert(first, last);
    }

    /// `seq`, or what comes behind the gap that it is in.
    pub(crate) fn behind(&self, seq: u64) -> u64 {
        let before = self.0.range(..=seq).next_back();
        before.filter(|(_, last)| **last >= seq).map_or(seq, |(_, last)| last + 1)
    }

    /// Whether all numbers from `first` to `last` are lost.
    pub(crate) fn hold(&self, first: u64, last: u64) -> bool {
        first <= last && self.behind(first) > last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut gaps = Gaps::default();
        [(10, 12), (20, 22), (30, 30)].into_iter().for_each(|(first, last)| gaps.add(first, last));
        assert!(
            gaps.hold(10, 12) && gaps.hold(11, 11) && !gaps.hold(10, 13) && !gaps.hold(9, 10) && !gaps.hold(12, 20)
        );
        assert_eq!([9, 10, 12, 13, 30].map(|seq| gaps.behind(seq)), [9, 13, 13, 13, 31]);
        gaps.add(13, 19);
        assert!(gaps.hold(10, 22) && !gaps.hold(10, 30));
        gaps.add(5, 40);
        assert_eq!((gaps.behind(5), gaps.0.len()), (41, 1));
    }
}
