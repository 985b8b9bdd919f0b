//! Whether all of a log verifies.

use crate::error::{Error, Result};
use crate::format::manifest::Entry;
use crate::format::segment::FRAMES_AT;
use crate::inspect::held::behind;
use crate::inspect::holder::{WriterLock, writer_lock};
use crate::inspect::stat::page;
use crate::manifest::Manifest;
use crate::reader::{present, settled};
use crate::recovery::examine::{Access, Examined, examine_end};
use crate::recovery::report::{Cut, TailState};
use crate::segment::{MappedPart, Maps, Segment};
use crate::storage::Storage;
use crate::view;

/// How many bytes are read between two reports of progress.
const REPORT: u64 = 4 << 20;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The ordinal of the segment that is read.
    pub segment: u64,
    /// Bytes that were read.
    pub bytes_done: u64,
    /// Bytes to be read in all.
    pub bytes_total: u64,
}

/// What a verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The first record's sequence number.
    pub first_seq: u64,
    /// The last record's sequence number; `None` if damage hides the end.
    pub last_seq: Option<u64>,
    /// How the log ends; `None` if damage hides the end. Beside a living writer, what is torn is only being written.
    pub tail: Option<TailState>,
    /// What the next open would cut, if the end is torn.
    pub cut: Option<Cut>,
    /// The process that has the log open for writing, where the system tells (Linux).
    pub writer: Option<u32>,
    /// The same, told apart from what cannot be known.
    pub writer_lock: WriterLock,
    /// Segments that were read, the active one included.
    pub segments: u64,
    /// Records that verified.
    pub records: u64,
    /// Records beside them that verified and were truncated: they stand in front of the first in a segment that is still
    /// needed, and are shown no more.
    pub truncated: u64,
    /// Bytes of frames that verified, those of truncated records included.
    pub bytes: u64,
    /// What is wrong, one error for each damaged segment, oldest first.
    pub damages: Vec<Error>,
}

/// Verifies the log in `storage`.
pub(crate) fn verify(storage: &Storage, progress: impl FnMut(Progress)) -> Result<Verification> {
    let judged = settled(storage, |storage, manifest| {
        Ok((manifest.clone(), examine_end(storage, manifest, &storage.list()?, Access::Shared)?))
    });
    let (manifest, end) = match judged {
        Ok((manifest, examined)) => (manifest, Ok(examined)),
        Err(e @ Error::MapLimit(_)) => return Err(e),
        // It is not known what the log is.
        Err(stale @ Error::StaleManifest(_)) => return Err(stale),
        Err(e) => (present(storage)?, Err(e)),
    };
    // Nobody writes a log that is closed; and to ask for locks, the system stops all who take some for a while.
    let is_closed = end.as_ref().is_ok_and(|end| end.closed);
    let writer_lock = if is_closed { WriterLock::Free } else { writer_lock(storage, page(storage).as_ref()) };
    let mut found = Verification {
        first_seq: manifest.header.first_seq,
        last_seq: None,
        tail: None,
        cut: None,
        writer: writer_lock.pid(),
        writer_lock,
        segments: 0,
        records: 0,
        truncated: 0,
        bytes: 0,
        damages: Vec::new(),
    };
    read_sealed(storage, &manifest, &mut found, progress)?;
    match end {
        Ok(examined) => add_end(&mut found, &manifest, &examined),
        Err(e) => found.damages.push(e),
    }
    Ok(found)
}

/// Counts what was read when the end was judged.
fn add_end(found: &mut Verification, manifest: &Manifest, examined: &Examined) {
    let end = examined.end();
    found.last_seq = Some(examined.last_seq());
    found.tail = Some(examined.tail());
    found.cut = examined.cut;
    found.add(examined.judged.base_seq, end.count, end.offset);
    if let Some((offset, last_seq)) = examined.judged.completed {
        let base_seq = manifest.active().base_seq;
        found.add(base_seq, last_seq + 1 - base_seq, offset);
    }
}

impl Verification {
    /// Counts a segment of `count` records from `base_seq` on, whose frames end at `end`.
    fn add(&mut self, base_seq: u64, count: u64, end: usize) {
        let shown = behind(self.first_seq, base_seq, (base_seq + count).saturating_sub(1));
        self.segments += 1;
        self.records += shown;
        self.truncated += count - shown;
        self.bytes += (end - FRAMES_AT) as u64;
    }
}

fn read_sealed(
    storage: &Storage,
    manifest: &Manifest,
    found: &mut Verification,
    mut progress: impl FnMut(Progress),
) -> Result<()> {
    let len = |entry: &Entry| entry.end_offset - FRAMES_AT as u64;
    let bytes_total = manifest.sealed().iter().map(len).sum();
    let (mut before, maps) = (0, Maps::single());
    for entry in manifest.sealed() {
        let report = |done| progress(Progress { segment: entry.ordinal, bytes_done: before + done, bytes_total });
        let segment = Segment::sealed(storage, *entry, manifest.header.log_id, &maps);
        match read_segment(&segment, report) {
            Ok(records) => found.add(segment.base_seq(), records, segment.end().offset),
            // The log is not damaged by that.
            Err(e @ Error::MapLimit(_)) => return Err(e),
            Err(e) if is_named(storage, entry)? => found.damages.push(e),
            // Truncated meanwhile.
            Err(_) => {}
        }
        before += len(entry);
    }
    Ok(())
}

/// Whether the manifest still names the segment.
fn is_named(storage: &Storage, entry: &Entry) -> Result<bool> {
    let named = |now: &Entry| (now.ordinal, now.salt) == (entry.ordinal, entry.salt);
    Ok(present(storage)?.entries.iter().any(named))
}

/// Reads a sealed segment whole; returns how many records it has.
fn read_segment(segment: &Segment, mut report: impl FnMut(u64)) -> Result<u64> {
    let (end, mut reported) = (segment.end(), 0);
    let mapping = segment.mapping()?;
    let part = MappedPart::new(segment, &mapping, end);
    report(0);
    let walk = part.walk(|at| {
        let done = (at - FRAMES_AT) as u64;
        if done - reported >= REPORT {
            report(done);
            reported = done;
        }
    })?;
    if walk.x < end.offset {
        return Err(view::damaged(&part, walk.x, walk.expected()));
    }
    if walk.cut < walk.x || walk.next_seq != segment.base_seq() + end.count {
        let reason = "the segment does not end as the manifest says";
        return Err(segment.damage(walk.x, walk.expected(), end.offset, reason));
    }
    report((end.offset - FRAMES_AT) as u64);
    Ok(end.count)
}
