//! What a log tells its host while it runs, and what it counts.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Counter, Mutex, lock, this_thread};
use crate::wakers::contained;

/// Something that happened in an open log, off the append path unless no thread runs; see
/// [`on_event`](crate::Options::on_event).
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

/// Who is told. It is user code, which may call the log, close it, drop its last handle or panic: so it is told with no
/// lock of the log held, and a panic ends here.
#[derive(Clone)]
pub(crate) struct Listener(Option<Arc<Told>>);

/// The callback of one log, and what is being told.
struct Told {
    callback: Callback,
    /// The threads in which the callback runs, and the events that its own calls have caused there since.
    running: Mutex<Vec<(usize, VecDeque<Event>)>>,
    panics: Counter,
}

impl Told {
    fn new(callback: Callback) -> Arc<Self> {
        Arc::new(Self { callback, running: Mutex::new(Vec::new()), panics: Counter::new(0) })
    }
}

impl Listener {
    /// Tells nobody.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Tells `callback`.
    pub(crate) fn new(callback: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Some(Told::new(Arc::new(callback))))
    }

    /// The same callback for another log.
    pub(crate) fn for_another(&self) -> Self {
        Self(self.0.as_ref().map(|told| Told::new(Arc::clone(&told.callback))))
    }

    /// Tells whoever wants to know; the caller holds no lock. If the callback is running in this thread already, it is
    /// told when it returns, and not from within itself.
    pub(crate) fn tell(&self, event: &Event) {
        let Some(told) = &self.0 else { return };
        let thread = this_thread();
        if !told.begin(thread, event) {
            return;
        }
        let mut next = Some(event.clone());
        while let Some(event) = next {
            if !contained(|| (told.callback)(&event)) {
                told.panics.fetch_add(1, Ordering::Relaxed);
            }
            next = told.next(thread);
        }
    }

    /// How often it panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.0.as_ref().map_or(0, |told| told.panics.load(Ordering::Relaxed))
    }
}

impl Told {
    /// Whether the callback is to run in `thread` now; if it does already, the event is told behind what it is told.
    fn begin(&self, thread: usize, event: &Event) -> bool {
        let mut running = lock(&self.running);
        match running.iter_mut().find(|(other, _)| *other == thread) {
            Some((_, caused)) => {
                caused.push_back(event.clone());
                false
            }
            None => {
                running.push((thread, VecDeque::new()));
                true
            }
        }
    }

    /// What the callback has caused in `thread`; if there is nothing more, it runs there no longer.
    fn next(&self, thread: usize) -> Option<Event> {
        let mut running = lock(&self.running);
        let at = running.iter().position(|(other, _)| *other == thread)?;
        let next = running[at].1.pop_front();
        if next.is_none() {
            running.swap_remove(at);
        }
        next
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
    /// Listeners and wakers that panicked: the panic ended there. Other processes are not shown this.
    pub callback_panics: u64,
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
