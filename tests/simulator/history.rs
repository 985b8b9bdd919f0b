//! What a user does with a log: random when long, every combination when short.

use std::time::Duration;

use mmap_wal::{Background, Options, SyncMode};

use super::machine::{Famine, Fault};
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

/// One run of the process: what it does after opening the log, which sync fails, and when there is no space.
#[derive(Clone, Debug)]
pub struct Life {
    pub ops: Vec<Op>,
    pub fault: Option<Fault>,
    pub famine: Option<Famine>,
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
    /// In which nothing fails.
    pub fn of(ops: Vec<Op>) -> Self {
        Self { ops, fault: None, famine: None }
    }

    pub fn random(rng: &mut Rng, setup: &Setup, most_ops: usize) -> Self {
        let count = 1 + rng.below(most_ops);
        let alike = rng.one_in(2);
        let mut op = || match rng.below(6) {
            1.. if alike => Op::Append(setup.favourite),
            _ => Op::random(rng, setup.favourite),
        };
        let ops = (0..count).map(|_| op()).collect();
        let fault = rng.one_in(3).then(|| Fault { at: 1 + rng.below(4 * count), forgets: !rng.one_in(3) });
        Self { fault, ..Self::of(ops) }
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
    (Setup { mode, segment_size: 12 << 10, spares: 1, favourite: 488 }, Life::of(ops))
}

/// First lives that bring a log to the brink of something rare; what comes after is random.
pub fn focused(rng: &mut Rng) -> (Setup, Life) {
    const PAGES: &[Op] = &[Op::Append(4072); 3];
    const ALIKE: &[Op] = &[Op::Append(40), Op::Append(488), Op::Append(40), Op::Append(488)];
    const METAS: &[Op] = &[Op::Append(40), Op::SetMeta(1000), Op::SetMeta(900), Op::Checkpoint(100)];
    let fault = Some(Fault { at: 8 + rng.below(8), forgets: true });
    // What was cut stands in pages of its own; a sync was lost; both slots of the manifest can be torn.
    let (mode, favourite, ops, fault) = match rng.below(11) {
        10 => return founding(rng),
        0 => (SyncMode::None, 4072, PAGES, None),
        1 => (SyncMode::Sync, 40, ALIKE, fault),
        2 => (SyncMode::Sync, 40, METAS, None),
        3..=4 => return sealing(rng),
        5..=7 => return recycling(rng, Op::TruncateFront(100)),
        _ => return recycling(rng, *rng.clone().pick(&[Op::TruncateBack(0), Op::TruncateBack(50), Op::Reset(1)])),
    };
    (Setup { mode, segment_size: 20 << 10, spares: 1, favourite }, Life { fault, ..Life::of(ops.to_vec()) })
}

/// What stood in several segments is dropped by `drop`, again and again, and the files are used again.
fn recycling(rng: &mut Rng, drop: Op) -> (Setup, Life) {
    let mode = *rng.pick(&MODES);
    // One or two records that end with the segment, or many that stand where the new ones will.
    let (favourite, before) = *rng.pick(&[(4072, 2), (4072, 3), (2024, 4), (1000, 8), (488, 16)]);
    let mut ops = vec![Op::Append(favourite); before];
    for _ in 0..1 + rng.below(3) {
        ops.push(drop);
        ops.extend(vec![Op::Append(favourite); before / 2 + rng.below(before)]);
    }
    (Setup { mode, segment_size: 12 << 10, spares: 1 + rng.below(2), favourite }, Life::of(ops))
}

/// A creation in which a sync fails, or for which there is no space.
fn founding(rng: &mut Rng) -> (Setup, Life) {
    let setup = Setup::random(rng);
    let fault = rng.one_in(2).then(|| Fault { at: 1 + rng.below(14), forgets: !rng.one_in(3) });
    let famine = Famine { at: 1 + rng.below(NEEDS_OF_NEW), lasts: 1 + rng.below(4) };
    let famine = if fault.is_none() { Some(famine) } else { None };
    (setup, Life { fault, famine, ..Life::of(vec![Op::Append(setup.favourite)]) })
}

/// Segments that have much to sync are rotated and sealed.
fn sealing(rng: &mut Rng) -> (Setup, Life) {
    let mode = *rng.pick(&MODES[1..]);
    let (favourite, count) = *rng.pick(&[(4072, 3), (2024, 5), (1000, 9), (488, 17)]);
    let ops = (0..count + rng.below(count)).map(|_| match rng.below(12) {
        0 => Op::Batch(&[1000, 40, 1000]),
        1 => Op::Sync,
        _ => Op::Append(favourite),
    });
    let ops = ops.collect();
    (Setup { mode, segment_size: 12 << 10, spares: 1 + rng.below(2), favourite }, Life::of(ops))
}

/// What a life needs that meets a full disk: segments that are full soon.
pub fn starving(rng: &mut Rng) -> (Setup, Life) {
    let favourite = *rng.pick(&[4072, 4072, 2024, 1000]);
    let setup = Setup { mode: *rng.pick(&MODES), segment_size: 12 << 10, spares: 1 + rng.below(2), favourite };
    let mut life = starved(rng, &setup, 10);
    // A new log needs space for a dozen acts.
    let at = if rng.one_in(6) { 1 + rng.below(NEEDS_OF_NEW) } else { NEEDS_OF_NEW + 1 + rng.below(8) };
    life.famine = life.famine.map(|famine| Famine { at, ..famine });
    (setup, life)
}

/// A life that meets a full disk.
pub fn starved(rng: &mut Rng, setup: &Setup, most_ops: usize) -> Life {
    let mut op = || match rng.below(16) {
        0 => Op::TruncateFront(if rng.one_in(2) { 100 } else { rng.draw() % 101 }),
        1 => Op::TruncateBack(rng.draw() % 101),
        2 => Op::Reset(rng.draw() % 3),
        3 => Op::Append(9000 + rng.below(9000)),
        4 => Op::Batch(&[2024, 2024, 40]),
        5 => *rng.pick(&[Op::Sync, Op::Checkpoint(100), Op::SetMeta(900)]),
        6 => Op::Reopen,
        7 => Op::random(rng, setup.favourite),
        _ => Op::Append(setup.favourite),
    };
    let ops = (0..2 + most_ops / 2).map(|_| op()).collect();
    let lasts = *rng.pick(&[1, 2, 3, 5, usize::MAX, usize::MAX]);
    Life { famine: Some(Famine { at: 1 + rng.below(8), lasts }), ..Life::of(ops) }
}

/// How many acts that need space it takes to make a new log.
pub const NEEDS_OF_NEW: usize = 12;

/// A life that leaves several segments, to be damaged.
pub fn mending(rng: &mut Rng) -> (Setup, Life) {
    let favourite = *rng.pick(&[4072, 2024, 1000, 488]);
    let setup = Setup { mode: *rng.pick(&MODES), segment_size: 12 << 10, spares: 1 + rng.below(2), favourite };
    let count = (3 + rng.below(3)) * (4096 / (favourite + 24)).min(4);
    let mut op = || match rng.below(24) {
        0..=2 => Op::Batch(&[488, 488]),
        3 => Op::TruncateFront(30),
        4 => Op::Checkpoint(50),
        5 => Op::TruncateBack(80),
        6 => Op::Reset(3),
        7 => Op::Reopen,
        8 => Op::Append(40),
        _ => Op::Append(favourite),
    };
    (setup, Life::of((0..count).map(|_| op()).collect()))
}
