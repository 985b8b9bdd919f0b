//! What a user does with a log: random when long, every combination when short.

use std::time::Duration;

use mmap_wal::{Options, SyncMode};

use super::machine::Fault;
use super::rng::Rng;

pub const USER_TAG: [u8; 16] = *b"a simulated user";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Append(usize),
    AppendWith(usize),
    /// A payload that is a piece of the log itself.
    AppendEcho(usize),
    Batch(&'static [usize]),
    Sync,
    /// Up to this per cent of what is there.
    Checkpoint(u64),
    TruncateFront(u64),
    SetMeta(usize),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub mode: SyncMode,
    pub segment_size: u64,
    pub spares: usize,
}

impl Setup {
    pub fn options(&self) -> Options {
        let options = Options::new().sync_mode(self.mode).segment_size(self.segment_size);
        options.spare_segments(self.spares).user_tag(USER_TAG)
    }

    pub fn random(rng: &mut Rng) -> Self {
        let mode = *rng.pick(&MODES);
        let segment_size = *rng.pick(&[12 << 10, 16 << 10, 20 << 10]);
        Self { mode, segment_size, spares: if rng.one_in(4) { 2 } else { 1 } }
    }
}

/// A delay that never passes, so that a history is the same each time.
const NEVER: Duration = Duration::from_secs(3600);
const BATCH: SyncMode = SyncMode::Batch { records: 3, delay: NEVER };
pub const MODES: [SyncMode; 3] = [SyncMode::Sync, BATCH, SyncMode::None];

/// One run of the process: what it does after opening the log, and which sync fails.
#[derive(Clone, Debug)]
pub struct Life {
    pub ops: Vec<Op>,
    pub fault: Option<Fault>,
}

/// Frames that end within a sector, with one, with a page, and records that need segments of their own.
const SIZES: [usize; 9] = [8, 40, 40, 40, 200, 488, 1000, 2024, 4072];
const BATCHES: [&[usize]; 6] = [&[40, 40], &[8, 8, 8], &[488, 488], &[1000, 40, 1000], &[2024, 2024, 40], &[]];

impl Op {
    fn random(rng: &mut Rng) -> Self {
        let size = *rng.pick(&SIZES);
        match rng.below(40) {
            0..=16 => Self::Append(size),
            17 => Self::Append(0),
            18 => Self::Append(9000 + rng.below(9000)),
            19..=20 => Self::AppendWith(size),
            21 => Self::AppendEcho(size),
            22..=27 => Self::Batch(BATCHES[rng.below(BATCHES.len())]),
            28 => Self::Batch(&[6000, 6000, 40]),
            29..=30 => Self::Sync,
            31..=32 => Self::Checkpoint(rng.draw() % 101),
            33..=35 => Self::TruncateFront(if rng.one_in(3) { 100 } else { rng.draw() % 101 }),
            36..=37 => Self::SetMeta(rng.below(60)),
            _ => Self::Reopen,
        }
    }
}

impl Life {
    pub fn random(rng: &mut Rng, most_ops: usize) -> Self {
        let count = 1 + rng.below(most_ops);
        let ops = match rng.below(4) {
            // Records of one size: what was cut fits exactly where new records go.
            0 => {
                let size = *rng.pick(&SIZES);
                (0..count).map(|_| if rng.one_in(6) { Op::random(rng) } else { Op::Append(size) }).collect()
            }
            _ => (0..count).map(|_| Op::random(rng)).collect(),
        };
        let fault = rng.one_in(4).then(|| Fault { at: 1 + rng.below(4 * count), forgets: !rng.one_in(3) });
        Self { ops, fault }
    }
}

/// What short histories are made of.
const SHORT: [Op; 9] = [
    Op::Append(40),
    Op::Append(488),
    Op::Batch(&[40, 488]),
    Op::Append(4072),
    Op::Sync,
    Op::Checkpoint(100),
    Op::TruncateFront(100),
    Op::SetMeta(20),
    Op::Reopen,
];

/// The history of this number: all of one operation, all of two, all of three; in every mode.
pub fn short(number: u64) -> (Setup, Life) {
    let kinds = SHORT.len() as u64;
    let mode = MODES[(number % 3) as usize];
    let mut rest = number / 3;
    let mut count = 1;
    while rest >= kinds.pow(count) && count < 4 {
        rest -= kinds.pow(count);
        count += 1;
    }
    let mut ops = vec![];
    for _ in 0..count {
        ops.push(SHORT[(rest % kinds) as usize]);
        rest /= kinds;
    }
    (Setup { mode, segment_size: 12 << 10, spares: 1 }, Life { ops, fault: None })
}
