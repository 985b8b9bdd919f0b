//! What a mixed writer appends: *units*, each a single record or an atomic batch, that follow from their names, so that a
//! checker knows every byte of them.

use std::fmt;

use crate::crash_test::random::{Random, mix};

/// The most records of a batch.
pub(crate) const MOST_RECORDS: usize = 80;

/// Which unit: the `counter`th of a thread in a round. No two units have the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) round: u32,
    pub(crate) thread: u32,
    pub(crate) counter: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, thread, counter } = self;
        write!(f, "unit {counter} of thread {thread} in round {round}")
    }
}

/// By which call a unit is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    Tagged,
    Vectored,
    With,
    Try,
    Submit,
    Batch,
    SubmitBatch,
}

/// By which call a unit is appended and how many records it has: all that is needed to follow the numbers.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) call: Call,
    pub(crate) count: usize,
}

/// What units follow from besides their names.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) seed: u64,
    /// A few records are larger than a segment.
    pub(crate) segment_size: u64,
}

/// A unit as it is appended.
pub(crate) struct Unit {
    pub(crate) call: Call,
    /// 0 unless the call gives one.
    pub(crate) tag: u16,
    pub(crate) records: Vec<Vec<u8>>,
}

impl Source {
    /// The shape of the unit `name`.
    pub(crate) fn shape(&self, name: Name) -> Shape {
        Self::shape_from(&mut self.random(name))
    }

    /// The unit `name`.
    pub(crate) fn unit(&self, name: Name) -> Unit {
        let mut random = self.random(name);
        let Shape { call, count } = Self::shape_from(&mut random);
        let tag = if call == Call::Tagged { 1 + random.below(u64::from(u16::MAX)) as u16 } else { 0 };
        let records = (0..count).map(|at| self.record(name, (at, count), call, &mut random)).collect();
        Unit { call, tag, records }
    }

    fn random(&self, Name { round, thread, counter }: Name) -> Random {
        Random::new(mix(mix(self.seed ^ u64::from(round) << 32 ^ u64::from(thread)) ^ counter))
    }

    fn shape_from(random: &mut Random) -> Shape {
        let call = match random.below(16) {
            0..=4 => Call::Append,
            5..=7 => Call::Tagged,
            8 => Call::Vectored,
            9 => Call::With,
            10 => Call::Try,
            11 | 12 => Call::Submit,
            13 | 14 => Call::Batch,
            _ => Call::SubmitBatch,
        };
        let count = match call {
            Call::Batch | Call::SubmitBatch if random.below(16) == 0 => MOST_RECORDS,
            Call::Batch | Call::SubmitBatch => 2 + random.below(9) as usize,
            _ => 1,
        };
        Shape { call, count }
    }

    /// A record says which it is, and goes on with letters. An empty one says nothing: it is known by its tag, or by
    /// the record before it in its batch.
    fn record(&self, name: Name, (at, count): (usize, usize), call: Call, random: &mut Random) -> Vec<u8> {
        let padding = match random.below(512) {
            0 => self.segment_size + random.below(self.segment_size),
            1..=8 => 3000,
            n if n % 8 == 0 && (call == Call::Tagged || at > 0) => return Vec::new(),
            _ => random.below(200),
        };
        let mut record = format!("{name}, {}/{count}: ", at + 1).into_bytes();
        let end = record.len() + padding as usize;
        while record.len() < end {
            let letters = random.below(u64::MAX).to_le_bytes().map(|byte| b'a' + byte % 16);
            let more = letters.len().min(end - record.len());
            record.extend_from_slice(&letters[..more]);
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_what_its_shape_says_and_the_same_again() {
        let source = Source { seed: 7, segment_size: 16 << 10 };
        let (mut empty, mut large, mut batches) = (0, 0, 0);
        for counter in 0..4000 {
            let name = Name { round: 1, thread: 2, counter };
            let (shape, unit) = (source.shape(name), source.unit(name));
            assert!(shape.call == unit.call && shape.count == unit.records.len());
            assert_eq!(unit.records, source.unit(name).records);
            // A record that says nothing and has no tag and no record before it could not be told from another.
            assert!(!unit.records[0].is_empty() || unit.tag != 0);
            empty += unit.records.iter().filter(|record| record.is_empty()).count();
            large += unit.records.iter().filter(|record| record.len() > 16 << 10).count();
            batches += usize::from(shape.count > 1);
        }
        assert!(empty > 100 && large > 4 && batches > 400, "{empty} {large} {batches}");
    }

    #[test]
    fn two_names_or_seeds_make_two_units() {
        let name = Name { round: 1, thread: 2, counter: 3 };
        let records = |seed, name| Source { seed, segment_size: 16 << 10 }.unit(name).records;
        let others = [Name { round: 2, ..name }, Name { thread: 1, ..name }, Name { counter: 4, ..name }];
        assert!(others.iter().all(|other| records(7, *other) != records(7, name)));
        assert_ne!(records(8, name), records(7, name));
    }
}
