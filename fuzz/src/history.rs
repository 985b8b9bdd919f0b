//! Histories made of an input.

use crate::executor::{Op, Setup};
use crate::steps::Step;

/// So many kinds of operations there are.
pub const KINDS: u8 = 24;
/// The kinds that seeds use by name.
pub const APPEND: u8 = 0;
pub const BATCH: u8 = 1;
pub const TAGGED: u8 = 5;
pub const SYNC: u8 = 8;
pub const CHECKPOINT: u8 = 11;
pub const TRUNCATE_FRONT: u8 = 12;
pub const TRUNCATE_BACK: u8 = 13;
pub const RESET: u8 = 14;
pub const REOPEN: u8 = 21;
pub const KILL: u8 = 22;

/// Mostly short, sometimes about a segment, seldom more.
fn len(number: u16) -> u32 {
    let number = u32::from(number);
    match number >> 12 {
        0..=11 => number % 300,
        12..=13 => number % 3000,
        14 => 4000 + number % 100,
        _ => number % 20_000,
    }
}

fn lens(step: &Step) -> Vec<u32> {
    (0..u32::from(step.a) % 8).map(|i| len((step.x.rotate_left(7 * i) ^ u32::from(step.b)) as u16)).collect()
}

fn setup(step: &Step) -> Setup {
    let mode = match step.a % 4 {
        0 => 0,
        1 => 255,
        _ => 1 + step.x as u8 % 20,
    };
    Setup { mode, pages: step.b as u8, spares: (step.b >> 8) as u8, strict: step.a & 0x80 != 0 }
}

/// The operation that `step` is.
pub fn op(step: &Step) -> Op {
    match step.kind % KINDS {
        BATCH => Op::AppendBatch(lens(step)),
        2 => {
            let (a, b) = (len(step.b), len(step.x as u16));
            let (max, len) = if step.a & 2 == 0 { (a.max(b), a.min(b)) } else { (a, b) };
            Op::AppendWith { max, len, fails: step.a & 1 != 0 }
        }
        3 => Op::AppendVectored(lens(step).iter().map(|len| *len as u16).collect()),
        4 => Op::AppendOversized,
        TAGGED => Op::AppendTagged { tag: step.x as u16, len: len(step.b) },
        6 => Op::TryAppend(len(step.b)),
        7 => Op::Submit { lens: lens(step), wait: step.a & 0x80 != 0 },
        SYNC => Op::Sync,
        9 => Op::SyncTo(step.b),
        10 => Op::Maintain,
        CHECKPOINT => Op::Checkpoint(step.b),
        TRUNCATE_FRONT => Op::TruncateFront(step.b),
        TRUNCATE_BACK => Op::TruncateBack(step.b),
        RESET => Op::Reset(step.b),
        15 => Op::SetMeta(step.b),
        16 => Op::Get(step.b),
        17 => Op::Replay(step.b),
        18 => Op::Keep { durable: step.a & 1 != 0 },
        19 => Op::CheckKept,
        20 => Op::Forget,
        REOPEN => Op::Reopen(setup(step)),
        KILL => Op::Kill(setup(step)),
        _ => Op::Append(len(step.b)),
    }
}
