//! What a log tells its host while it runs, and what it counts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened in an open log, off the append path unless no thread runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The log went on in another segment.
    Rotated {
        /// Ordinal of the segment that is appended to now.
        segment: u64,
    },
    /// A rotated segment is durable whole and sealed in the manifest.
    Sealed {
        /// Its ordinal.
        segment: u64,
    },
    /// A segment was prepared and announced.
    Prepared {
        /// Its ordinal.
        segment: u64,
        /// Its size in bytes.
        bytes: u64,
        /// How long it took.
        elapsed: Duration,
    },
    /// There was no space for a segment ahead of need. Appending goes on until the present ones are full.
    NoSpace,
}

/// What is called.
type Callback = Arc<dyn Fn(&Event) + Send + Sync>;

/// Who is told.
#[derive(Clone, Default)]
pub(crate) struct Listener(pub(crate) Option<Callback>);

impl Listener {
    /// Tells whoever wants to know.
    pub(crate) fn tell(&self, event: &Event) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Listener(set)" } else { "Listener(none)" })
    }
}

/// How many buckets a histogram has.
const BUCKETS: usize = 32;

/// Counts by powers of two: bucket `i` holds the values from 2^(i-1) to 2^i - 1, bucket 0 the value 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    sum: u64,
    max: u64,
}

impl Histogram {
    /// The histogram of these counts, their sum and their largest value.
    pub(crate) const fn new(buckets: [u64; BUCKETS], sum: u64, max: u64) -> Self {
        Self { buckets, sum, max }
    }

    /// The counts, their sum and their largest value.
    pub(crate) const fn parts(&self) -> ([u64; BUCKETS], u64, u64) {
        (self.buckets, self.sum, self.max)
    }

    /// Counts `value`.
    pub(crate) fn record(&mut self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Their mean; 0 if there is none.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count()).unwrap_or(0)
    }

    /// The largest; 0 if there is none.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The upper bound of the bucket that holds the value of rank `share` (0.0 to 1.0): 0.5 is the median.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        for (i, count) in self.buckets.iter().enumerate() {
            seen = count.saturating_add(seen);
            if seen >= rank {
                return ((1_u64 << i) - 1).min(self.max);
            }
        }
        self.max
    }
}

/// What the leaders counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Syncs {
    pub(crate) micros: Histogram,
    pub(crate) group_records: Histogram,
}

/// What an open log has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records appended by this handle.
    pub records: u64,
    /// Bytes of frames appended by this handle, headers and padding included.
    pub bytes: u64,
    /// Rotations to another segment.
    pub rotations: u64,
    /// Appends that waited because no prepared segment was at hand.
    pub segment_waits: u64,
    /// Segments prepared.
    pub prepared: u64,
    /// Segments prepared from the file of one that was dropped.
    pub recycled: u64,
    /// Segment files removed.
    pub removed: u64,
    /// Microseconds that a group's syncs took.
    pub sync_micros: Histogram,
    /// Records that one group's syncs made durable.
    pub group_records: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_upper_bound_of_its_bucket_and_never_above_the_largest() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.mean(), histogram.quantile(0.5)), (0, 0, 0));
        for value in [0, 1, 5, 6, 100] {
            histogram.record(value);
        }
        assert_eq!((histogram.count(), histogram.mean(), histogram.max()), (5, 22, 100));
        assert_eq!([0.0, 0.2, 0.4, 0.5, 0.8, 1.0].map(|share| histogram.quantile(share)), [0, 0, 1, 7, 7, 100]);
    }
}
