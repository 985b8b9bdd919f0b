//! What a living log shows of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::board;
use crate::error::Result;
use crate::event::{Histogram, Stats};
use crate::format::stats::{Counts, Slot, Writer};
use crate::inspect::holder::{WriterLock, writer_lock};
use crate::inspect::plan;
use crate::live::Positions;
use crate::storage::Storage;

/// What a log shows of itself while it is open for writing: at most a tenth of a second old, while anything happens. One
/// that was opened again is shown from when something happens in it.
///
/// It comes from the file `STATS`, which is no part of the log and which nothing relies upon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveStat {
    /// The process that has the log open for writing, which is the one that holds the writer's lock (Linux); `None` if
    /// `state` is anything but [`WriterState::Open`].
    pub pid: Option<u32>,
    /// Whether a process has the log open.
    pub state: WriterState,
    /// The process that wrote this, by its number in its own pid namespace; `None` if it has closed the log since. It may
    /// have been killed, and its number may be another process's by now: `state` says whether the log is open.
    pub shown_by: Option<u32>,
    /// Whether the writer that has the log open wrote this. If not, a writer before it did, and this one has shown nothing
    /// yet.
    pub is_current: bool,
    /// When it opened the log; [`UNIX_EPOCH`] if that is not known, because its clock stood before 1970 or after 2554.
    pub opened: SystemTime,
    /// When it wrote this; [`UNIX_EPOCH`] as in `opened`.
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

/// Whether a log is open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterState {
    /// A process holds the writer's lock.
    Open,
    /// No process holds it, and the last writer has closed the log.
    Closed,
    /// No process holds it, and the last writer has not closed the log: it was killed, or its machine failed.
    Gone,
    /// It cannot be told from here, see [`WriterLock::Unknown`].
    Unknown,
}

impl WriterState {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStat {
    /// Its process.
    pub pid: u64,
    /// The last record that it has dealt with.
    pub seq: u64,
    /// When it said so, a few seconds ago at most: one that is silent for longer is not listed, dead or not.
    pub updated: SystemTime,
}

/// What the log in `storage` shows; `None` if it shows nothing.
pub(crate) fn live(storage: &Storage) -> Result<Option<LiveStat>> {
    let (writer, slots) = board::read(storage)?;
    Ok(writer.map(|writer| shown(&writer, &slots, writer_lock(storage, Some(&writer)))))
}

fn shown(writer: &Writer, slots: &[Slot], lock: WriterLock) -> LiveStat {
    let is_same_process = |pid: u32| {
        let here = [0, board::pid_namespace()].contains(&writer.namespace);
        // A number of another namespace cannot be compared.
        if here { writer.pid == pid } else { writer.pid != 0 }
    };
    let (state, is_current) = match lock {
        WriterLock::Held(pid) => (WriterState::Open, is_same_process(pid)),
        // A page says that the log was closed only until the next writer has something to show.
        WriterLock::Free | WriterLock::Unknown if writer.pid == 0 => (WriterState::Closed, true),
        WriterLock::Free => (WriterState::Gone, true),
        WriterLock::Unknown => (WriterState::Unknown, true),
    };
    let Writer { first_seq: first, last_seq: last, durable_seq: durable, checkpoint_seq: checkpoint, .. } = *writer;
    let histogram = |Counts { buckets, sum, max }| Histogram::new(buckets, sum, max);
    let reader = |slot: &Slot| ReaderStat { pid: slot.pid, seq: slot.seq, updated: time(slot.updated) };
    LiveStat {
        pid: lock.pid(),
        state,
        shown_by: Some(writer.pid).filter(|pid| *pid != 0),
        is_current,
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
            callback_panics: 0,
        },
        readers: slots.iter().map(reader).collect(),
    }
}

impl LiveStat {
    /// How long ago this was written, at `now`; `None` if that is not known, or if `now` is earlier, because one of the
    /// clocks was set.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        age(self.updated, now)
    }
}

impl ReaderStat {
    /// As [`LiveStat::age`].
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        age(self.updated, now)
    }
}

fn age(updated: SystemTime, now: SystemTime) -> Option<Duration> {
    if updated == UNIX_EPOCH { None } else { now.duration_since(updated).ok() }
}

fn time(nanos: u64) -> SystemTime {
    plan::time(nanos).unwrap_or(UNIX_EPOCH)
}
