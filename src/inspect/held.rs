//! Which numbers of a log have a record: not those of missing ranges, and not those that were truncated.

/// The records of a log, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// How many there are.
    pub(crate) records: u64,
    /// The first and the last number of each range that a repair left out.
    pub(crate) gaps: Vec<(u64, u64)>,
}

/// Counts the records from `first_seq` on; `segments` are the first and the last number of each segment, in order.
pub(crate) fn held(first_seq: u64, segments: impl IntoIterator<Item = (u64, u64)>) -> Held {
    let mut held = Held::default();
    let mut next = first_seq;
    for (base_seq, last_seq) in segments {
        if base_seq > next {
            held.gaps.push((next, base_seq - 1));
        }
        held.records += behind(first_seq, base_seq, last_seq);
        next = next.max(last_seq.saturating_add(1));
    }
    held
}

/// How many of the records `base_seq` to `last_seq`, which may be none, are not in front of `first_seq`.
pub(crate) fn behind(first_seq: u64, base_seq: u64, last_seq: u64) -> u64 {
    last_seq.saturating_add(1).saturating_sub(base_seq.max(first_seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_record_are_not_counted() {
        type Ranges = &'static [(u64, u64)];
        let cases: [(u64, Ranges, u64, Ranges); 8] = [
            (1, &[(1, 0)], 0, &[]),
            (6, &[(1, 5)], 0, &[]),
            (3, &[(1, 5), (6, 9)], 7, &[]),
            (1, &[(1, 5), (8, 9)], 7, &[(6, 7)]),
            (1, &[(1, 0), (134, 133)], 0, &[(1, 133)]),
            (7, &[(1, 5), (10, 9)], 0, &[(7, 9)]),
            (1, &[(1, 5), (8, 9), (20, 19)], 7, &[(6, 7), (10, 19)]),
            (1 << 62, &[(1 << 62, (1 << 62) - 1)], 0, &[]),
        ];
        for (first_seq, segments, records, gaps) in cases {
            let expected = Held { records, gaps: gaps.to_vec() };
            assert_eq!(held(first_seq, segments.iter().copied()), expected, "{first_seq} {segments:?}");
        }
    }
}
