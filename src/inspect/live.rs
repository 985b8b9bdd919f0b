//! What a living log shows of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::board;
use crate::error::Result;
use crate::event::{Histogram, Stats};
use crate::format::stats::{Counts, Slot, Writer};
use crate::live::Positions;
use crate::storage::Storage;

/// What a log shows of itself while it is open for writing: at most a tenth of a second old, while anything happens. One
/// that was opened again is shown from when something happens in it.
///
/// It comes from the file `STATS`, which is no part of the log and which nothing relies upon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveStat {
    /// The process that has the log open; `None` once it has closed it. A process that was killed is still named:
    /// [`Stat::writer`](crate::inspect::Stat::writer) says whether it lives.
    pub pid: Option<u32>,
    /// When it opened the log.
    pub opened: SystemTime,
    /// When it wrote this.
    pub updated: SystemTime,
    /// Its sync mode, in one word: `sync`, `batch` or `none`.
    pub sync_mode: &'static str,
    /// Where the log begins and ends.
    pub positions: Positions,
    /// How many segments hold records.
    pub segments: u64,
    /// Ordinal of the segment that is appended to.
    pub active: u64,
    /// Byte offset in it at which the next record will stand.
    pub position: u64,
    /// What the handle has counted.
    pub stats: Stats,
    /// The readers that say where they stand.
    pub readers: Vec<ReaderStat>,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStat {
    /// Its process.
    pub pid: u64,
    /// The last record that it has dealt with.
    pub seq: u64,
    /// When it said so.
    pub updated: SystemTime,
}

/// What the log in `storage` shows; `None` if it shows nothing.
pub(crate) fn live(storage: &Storage) -> Result<Option<LiveStat>> {
    let (writer, slots) = board::read(storage)?;
    Ok(writer.map(|writer| shown(&writer, &slots)))
}

fn shown(writer: &Writer, slots: &[Slot]) -> LiveStat {
    let Writer { first_seq: first, last_seq: last, durable_seq: durable, checkpoint_seq: checkpoint, .. } = *writer;
    let histogram = |Counts { buckets, sum, max }| Histogram::new(buckets, sum, max);
    let reader = |slot: &Slot| ReaderStat { pid: slot.pid, seq: slot.seq, updated: time(slot.updated) };
    LiveStat {
        pid: Some(writer.pid).filter(|pid| *pid != 0),
        opened: time(writer.opened),
        updated: time(writer.updated),
        sync_mode: ["sync", "batch", "none"].get(writer.mode as usize).copied().unwrap_or("unknown"),
        positions: Positions { first, last, durable, checkpoint },
        segments: writer.segments,
        active: writer.active,
        position: writer.position,
        stats: Stats {
            records: writer.records,
            bytes: writer.bytes,
            rotations: writer.rotations,
            segment_waits: writer.segment_waits,
            prepared: writer.prepared,
            recycled: writer.recycled,
            removed: writer.removed,
            sync_micros: histogram(writer.sync_micros),
            group_records: histogram(writer.group_records),
        },
        readers: slots.iter().map(reader).collect(),
    }
}

fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}
