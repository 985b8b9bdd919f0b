//! Random numbers that a seed repeats.

use std::time::Duration;

/// SplitMix64.
pub(crate) struct Random(u64);

/// One step of SplitMix64 from `state`.
pub(crate) fn mix(state: u64) -> u64 {
    let mut bits = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Random {
    /// The numbers of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }

    /// A time up to `most`; short ones are as likely as long ones.
    pub(crate) fn time(&mut self, most: Duration) -> Duration {
        let most = (most.as_micros() as u64).max(1);
        let upper = most >> self.below(8);
        Duration::from_micros(self.below(upper + 1))
    }
}
