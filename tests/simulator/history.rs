//! What a user does with a log: random when long, every combination when short.

use std::time::Duration;

use mmap_wal::{Background, Options, SyncMode};

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
    /// Back to this per cent of what is there, which may lie in a batch.
    TruncateBack(u64),
    /// Goes on so far behind the next number.
    Reset(u64),
    SetMeta(usize),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub mode: SyncMode,
    pub segment_size: u64,
    pub spares: usize,
    /// A size that most records have: what was cut then fits exactly where new records go.
    pub favourite: usize,
}

impl Setup {
    pub fn options(&self) -> Options {
        let options =
            Options::new().background(Background::Caller).sync_mode(self.mode).segment_size(self.segment_size);
        options.spare_segments(self.spares).user_tag(USER_TAG)
    }

    pub fn random(rng: &mut Rng) -> Self {
        let mode = *rng.pick(&MODES);
        let segment_size = *rng.pick(&[12 << 10, 16 << 10, 20 << 10]);
        Self { mode, segment_size, spares: if rng.one_in(4) { 2 } else { 1 }, favourite: *rng.pick(&SIZES) }
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
const SIZES: [usize; 8] = [8, 40, 40, 200, 488, 1000, 2024, 4072];
const BATCHES: [&[usize]; 6] = [&[40, 40], &[8, 8, 8], &[488, 488], &[1000, 40, 1000], &[2024, 2024, 40], &[]];

impl Op {
    fn random(rng: &mut Rng, favourite: usize) -> Self {
        let size = if rng.one_in(2) { favourite } else { *rng.pick(&SIZES) };
        match rng.below(52) {
            0..=16 => Self::Append(size),
            17 => Self::Append(0),
            18 => Self::Append(9000 + rng.below(9000)),
            19..=20 => Self::AppendWith(size),
            21 => Self::AppendEcho(size),
            22..=27 => Self::Batch(BATCHES[rng.below(BATCHES.len())]),
            28 => Self::Batch(&[6000, 6000, 40]),
            29..=30 => Self::Sync,
            31..=34 => Self::Checkpoint(rng.draw() % 101),
            35..=38 => Self::TruncateFront(if rng.one_in(3) { 100 } else { rng.draw() % 101 }),
            // Up to three sectors, so that a slot of the manifest can be torn.
            39..=41 => Self::SetMeta(rng.below(1025)),
            42..=45 => Self::TruncateBack(rng.draw() % 101),
            46..=47 => Self::Reset(rng.draw() % 3),
            _ => Self::Reopen,
        }
    }
}

impl Life {
    pub fn random(rng: &mut Rng, setup: &Setup, most_ops: usize) -> Self {
        let count = 1 + rng.below(most_ops);
        let alike = rng.one_in(2);
        let mut op = || match rng.below(6) {
            1.. if alike => Op::Append(setup.favourite),
            _ => Op::random(rng, setup.favourite),
        };
        let ops = (0..count).map(|_| op()).collect();
        let fault = rng.one_in(3).then(|| Fault { at: 1 + rng.below(4 * count), forgets: !rng.one_in(3) });
        Self { ops, fault }
    }
}

/// What short histories are made of.
const SHORT: [Op; 11] = [
    Op::Append(40),
    Op::Append(488),
    Op::Batch(&[40, 488]),
    Op::Append(4072),
    Op::Sync,
    Op::Checkpoint(100),
    Op::TruncateFront(100),
    Op::TruncateBack(50),
    Op::Reset(1),
    Op::SetMeta(20),
    Op::Reopen,
];

/// How many there are: one, two or three operations, in every mode.
const SHORT_COUNT: u64 = 3 * (11 + 121 + 1331);

/// The history of this number; any stretch of numbers is a fair sample, and `SHORT_COUNT` of them are all.
pub fn short(number: u64) -> (Setup, Life) {
    let kinds = SHORT.len() as u64;
    // Coprime to the count, so that each is met once.
    let scattered = number % SHORT_COUNT * 1009 % SHORT_COUNT;
    let mode = MODES[(scattered % 3) as usize];
    let (mut rest, mut count) = (scattered / 3, 1);
    while rest >= kinds.pow(count) {
        rest -= kinds.pow(count);
        count += 1;
    }
    let ops = (0..count).map(|place| SHORT[(rest / kinds.pow(place) % kinds) as usize]).collect();
    (Setup { mode, segment_size: 12 << 10, spares: 1, favourite: 488 }, Life { ops, fault: None })
}

/// First lives that bring a log to the brink of something rare; what comes after is random.
pub fn focused(rng: &mut Rng) -> (Setup, Life) {
    const PAGES: &[Op] = &[Op::Append(4072); 3];
    const ALIKE: &[Op] = &[Op::Append(40), Op::Append(488), Op::Append(40), Op::Append(488)];
    const METAS: &[Op] = &[Op::Append(40), Op::SetMeta(1000), Op::SetMeta(900), Op::Checkpoint(100)];
    let fault = Some(Fault { at: 8 + rng.below(8), forgets: true });
    // What was cut stands in pages of its own; a sync was lost; both slots of the manifest can be torn.
    let (mode, favourite, ops, fault) = match rng.below(5) {
        0 => (SyncMode::None, 4072, PAGES, None),
        3 => return recycling(rng, Op::TruncateFront(100)),
        4 => return recycling(rng, *rng.clone().pick(&[Op::TruncateBack(0), Op::TruncateBack(50), Op::Reset(1)])),
        1 => (SyncMode::Sync, 40, ALIKE, fault),
        _ => (SyncMode::Sync, 40, METAS, None),
    };
    (Setup { mode, segment_size: 20 << 10, spares: 1, favourite }, Life { ops: ops.to_vec(), fault })
}

/// What stood in several segments is dropped by `drop`, and the files are used again.
fn recycling(rng: &mut Rng, drop: Op) -> (Setup, Life) {
    let mode = *rng.pick(&MODES);
    // One or two records that end with the segment, or many that stand where the new ones will.
    let (favourite, before) = *rng.pick(&[(4072, 3), (2024, 5), (1000, 9), (488, 18)]);
    let mut ops = vec![Op::Append(favourite); before];
    ops.push(drop);
    ops.extend(vec![Op::Append(favourite); before + rng.below(before)]);
    (Setup { mode, segment_size: 12 << 10, spares: 1 + rng.below(2), favourite }, Life { ops, fault: None })
}
