//! Latencies: recorded in a histogram, and summed up as percentiles.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The longest that is told apart, a minute.
const LONGEST: u64 = 60_000_000_000;
/// Decimal digits that are kept of a latency.
const DIGITS: u8 = 3;
/// Percentiles for each halving of what is left above them.
const TICKS: u32 = 5;
/// Shares that people ask for, kept besides.
const SHARES: [f64; 6] = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// Latencies in nanoseconds, as they come.
#[derive(Clone)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// None so far; recording touches no memory for the first time.
    pub(crate) fn new() -> Self {
        let mut histogram = Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that are apart");
        // Writes every count.
        histogram.reset();
        Self { histogram }
    }

    /// One more.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.histogram.saturating_record(nanos);
    }

    /// Those of `other` as well.
    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    /// So many of about `nanos`.
    pub(crate) fn record_many(&mut self, nanos: u64, count: u64) {
        self.histogram.saturating_record_n(nanos, count);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// How many are longer than `nanos`, as far as the digits tell.
    pub(crate) fn over(&self, nanos: u64) -> u64 {
        self.count() - self.histogram.count_between(0, nanos)
    }

    /// The latency that a share of `quantile`, 0.0 to 1.0, does not exceed.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5) as f64
    }

    /// Each latency that was recorded, and how often.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = (u64, u64)> {
        self.histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }

    /// What is kept of them.
    pub(crate) fn summary(&self, name: &str, what: &str) -> Summary {
        let steps = self.histogram.iter_quantiles(TICKS).map(|step| step.quantile_iterated_to());
        let mut shares: Vec<f64> = steps.chain(SHARES).collect();
        shares.sort_by(f64::total_cmp);
        Summary {
            name: name.to_owned(),
            what: what.to_owned(),
            count: self.count(),
            mean: self.histogram.mean(),
            percentiles: shares.into_iter().map(|share| (share, self.quantile(share))).collect(),
        }
    }
}

/// The percentiles of one kind of operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    /// A word for it.
    pub(crate) name: String,
    /// What was done, for people.
    pub(crate) what: String,
    /// How many latencies there are.
    pub(crate) count: u64,
    /// Their mean in nanoseconds.
    pub(crate) mean: f64,
    /// Shares from 0.0 to 1.0, and the nanoseconds that they do not exceed.
    pub(crate) percentiles: Vec<(f64, u64)>,
}

impl Summary {
    /// The latency that a share of `quantile` does not exceed.
    pub(crate) fn at(&self, quantile: f64) -> u64 {
        let step = self.percentiles.iter().find(|(share, _)| *share >= quantile);
        step.or(self.percentiles.last()).map_or(0, |(_, nanos)| *nanos)
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "what": self.what,
            "count": self.count,
            "mean_ns": self.mean,
            "percentiles": self.percentiles,
        })
    }

    /// From JSON; `None` if it is not what [`Summary::to_json`] makes.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let pair = |pair: &Value| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_u64()?));
        Some(Self {
            name: value.get("name")?.as_str()?.to_owned(),
            what: value.get("what")?.as_str()?.to_owned(),
            count: value.get("count")?.as_u64()?,
            mean: value.get("mean_ns")?.as_f64()?,
            percentiles: value.get("percentiles")?.as_array()?.iter().map(pair).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundred() -> Latencies {
        let mut latencies = Latencies::new();
        (1..=100).for_each(|n| latencies.record(n * 1000));
        latencies
    }

    #[test]
    fn latencies_over_a_limit_are_counted_without_those_at_it() {
        let latencies = hundred();
        assert_eq!([0, 50_000, 99_000, 100_000].map(|limit| latencies.over(limit)), [100, 50, 1, 0]);
    }

    #[test]
    fn what_takes_longer_than_can_be_told_apart_is_kept_as_the_longest() {
        let mut latencies = hundred();
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 101);
        assert!(latencies.quantile(1.0) >= LONGEST);
    }

    #[test]
    fn recorded_latencies_can_be_recorded_again_elsewhere() {
        let (one, mut other) = (hundred(), Latencies::new());
        one.recorded().for_each(|(nanos, count)| other.record_many(nanos, count));
        assert_eq!(other.count(), 100);
        assert_eq!([0.1, 0.5, 0.999].map(|q| other.quantile(q)), [0.1, 0.5, 0.999].map(|q| one.quantile(q)));
        other.add(&one);
        assert_eq!(other.count(), 200);
    }

    #[test]
    fn a_summary_rises_to_the_largest_and_survives_json() {
        let summary = hundred().summary("name", "what");
        assert!(summary.percentiles.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        let last = summary.percentiles.last().unwrap();
        assert_eq!(last.0, 1.0);
        assert!((100_000..=100_100).contains(&last.1), "{last:?}");
        assert_eq!([0.5, 0.9, 0.99].map(|share| summary.at(share) / 1000), [50, 90, 99]);
        assert_eq!(Summary::from_json(&summary.to_json()), Some(summary));
        assert_eq!(Summary::from_json(&json!({"name": "n"})), None);
    }
}
