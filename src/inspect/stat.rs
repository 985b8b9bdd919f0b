//! What a log is made of.

use std::collections::HashSet;

use crate::board;
use crate::error::Result;
use crate::format::manifest::{Entry, Role};
use crate::format::name::{LOCK, MANIFEST, MANIFEST_TMP, READERS, STATS, SegmentName};
use crate::format::stats::Writer;
use crate::inspect::held::{Held, held};
use crate::inspect::holder::{WriterLock, writer_lock};
use crate::manifest::Manifest;
use crate::reader::settled;
use crate::recovery::examine::{Access, Examined, examine};
use crate::recovery::report::{Cut, TailState};
use crate::recovery::unnamed::{Unnamed, unnamed};
use crate::storage::{Listed, Storage};

/// What a log is made of and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The first record's sequence number; one more than `last_seq` if there is none.
    pub first_seq: u64,
    /// The last record's sequence number; 0 if the log never had one. After a repair it may be a number that was lost.
    pub last_seq: u64,
    /// How many records there are: not the truncated ones, and not those of `gaps`.
    pub records: u64,
    /// The first and the last number of each missing range, which a repair left out.
    pub gaps: Vec<(u64, u64)>,
    /// The checkpoint; 0 if there is none.
    pub checkpoint_seq: u64,
    /// How the log ends. Beside a living writer, what is torn is only being written.
    pub tail: TailState,
    /// What the next open would cut, if the end is torn.
    pub cut: Option<Cut>,
    /// Whether the log was closed and not written to since.
    pub closed: bool,
    /// Whether the log went on in a new segment before the manifest was told.
    pub seal_pending: bool,
    /// How often the manifest was changed.
    pub generation: u64,
    /// The random mark that the log was given when it was created.
    pub log_id: [u8; 16],
    /// The mark that its user gave it.
    pub user_tag: [u8; 16],
    /// What [`Wal::set_meta`](crate::Wal::set_meta) stored.
    pub meta: Vec<u8>,
    /// The process that has the log open for writing, where the system tells (Linux).
    pub writer: Option<u32>,
    /// The same, told apart from what cannot be known.
    pub writer_lock: WriterLock,
    /// The segments in order: sealed ones, the active one, spares.
    pub segments: Vec<SegmentStat>,
    /// Files that the next open removes; beside a living writer also one that it is preparing.
    pub leftovers: Vec<String>,
    /// Segment files that the manifest does not name and that no open removes, because they may hold records: their
    /// headers are damaged or those of another log.
    pub kept: Vec<String>,
    /// Names in the directory that are not the log's.
    pub others: Vec<String>,
    /// Length of all files of the log, leftovers included, in bytes.
    pub bytes_on_disk: u64,
}

/// One segment of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStat {
    /// Its ordinal, which is its name.
    pub ordinal: u64,
    /// What it is in the log.
    pub role: SegmentRole,
    /// The first record's sequence number; 0 in a spare.
    pub base_seq: u64,
    /// The last record's sequence number, `base_seq - 1` if it has none; 0 in a spare.
    pub last_seq: u64,
    /// Byte offset in the file at which its frames end; 0 in a spare.
    pub end_offset: u64,
    /// Length of the file in bytes.
    pub capacity: u64,
    /// Whether the file was new when it was prepared.
    pub virgin: bool,
}

/// What a segment is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentRole {
    /// Full: it does not change any more.
    Sealed,
    /// The one that is appended to.
    Active,
    /// Prepared for when the active one is full.
    Spare,
}

impl SegmentRole {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Active => "active",
            Self::Spare => "spare",
        }
    }
}

/// Looks at the log in `storage`.
pub(crate) fn stat(storage: &Storage) -> Result<Stat> {
    let (manifest, examined, listed) = settled(storage, |storage, manifest| {
        let listed = storage.list()?;
        let examined = examine(storage, manifest, &listed, Access::Shared)?;
        let unnamed = unnamed(storage, manifest, &listed, Some(examined.place()))?;
        Ok((manifest.clone(), examined, (listed, unnamed)))
    })?;
    let (listed, unnamed) = listed;
    let header = manifest.header;
    let [leftovers, kept, others] = names(&manifest, &listed, &unnamed);
    let writer_lock = writer_lock(storage, page(storage).as_ref());
    let segments = segments(&manifest, &examined);
    let used = segments.iter().filter(|segment| segment.role != SegmentRole::Spare);
    let Held { records, gaps } = held(header.first_seq, used.map(|segment| (segment.base_seq, segment.last_seq)));
    Ok(Stat {
        records,
        gaps,
        first_seq: header.first_seq,
        last_seq: examined.last_seq(),
        checkpoint_seq: header.checkpoint_seq,
        tail: examined.tail(),
        cut: examined.cut,
        closed: examined.closed,
        seal_pending: examined.judged.completed.is_some(),
        generation: header.generation,
        log_id: header.log_id,
        user_tag: header.user_tag,
        writer: writer_lock.pid(),
        writer_lock,
        segments,
        bytes_on_disk: bytes_of_log(&listed, &others),
        meta: manifest.meta,
        leftovers,
        kept,
        others,
    })
}

/// What the last writer has shown; nothing depends on it, so a page that cannot be read is none.
pub(crate) fn page(storage: &Storage) -> Option<Writer> {
    board::read(storage).ok().and_then(|(writer, _)| writer)
}

fn segments(manifest: &Manifest, examined: &Examined) -> Vec<SegmentStat> {
    let active_at = manifest.active_index();
    let place = |index: usize, entry: &Entry| segment(entry, index.checked_sub(active_at), examined);
    manifest.entries.iter().enumerate().map(|(index, entry)| place(index, entry)).collect()
}

/// A segment as recovery would leave it; `unsealed` is its number among those that are not sealed.
fn segment(entry: &Entry, unsealed: Option<usize>, examined: &Examined) -> SegmentStat {
    let judged = &examined.judged;
    let (role, base_seq, last_seq, end_offset) = match (entry.role(), unsealed) {
        (_, Some(index)) if index == judged.judged => {
            (SegmentRole::Active, judged.base_seq, examined.last_seq(), examined.end().offset as u64)
        }
        (Some(Role::Active), _) => {
            let (end, last_seq) = judged.completed.unwrap_or_default();
            (SegmentRole::Sealed, entry.base_seq, last_seq, end as u64)
        }
        (_, Some(_)) => (SegmentRole::Spare, 0, 0, 0),
        (_, None) => (SegmentRole::Sealed, entry.base_seq, entry.last_seq, entry.end_offset),
    };
    let Entry { ordinal, capacity, virgin, .. } = *entry;
    SegmentStat { ordinal, role, base_seq, last_seq, end_offset, capacity, virgin }
}

/// The names that the manifest does not account for: files of the log that are left over, segment files that stay, and what
/// is not the log's.
fn names(manifest: &Manifest, listed: &[Listed], unnamed: &[(String, Unnamed)]) -> [Vec<String>; 3] {
    let named: HashSet<u64> = manifest.entries.iter().map(|entry| entry.ordinal).collect();
    let (mut leftovers, mut others) = (Vec::new(), Vec::new());
    for file in listed {
        match SegmentName::decode(&file.name) {
            Some(ordinal) if named.contains(&ordinal) || file.is_file => {}
            None if file.name == MANIFEST_TMP => leftovers.push(file.name.clone()),
            None if [LOCK, READERS, MANIFEST, STATS].contains(&file.name.as_str()) => {}
            _ => others.push(file.name.clone()),
        }
    }
    let (left, kept): (Vec<_>, Vec<_>) = unnamed.iter().partition(|(_, what)| *what == Unnamed::Leftover);
    leftovers.extend(left.into_iter().map(|(name, _)| name.clone()));
    let mut kept: Vec<String> = kept.into_iter().map(|(name, _)| name.clone()).collect();
    [&mut leftovers, &mut kept, &mut others].into_iter().for_each(|names| names.sort_unstable());
    [leftovers, kept, others]
}

fn bytes_of_log(listed: &[Listed], others: &[String]) -> u64 {
    let is_ours = |file: &&Listed| others.binary_search(&file.name).is_err();
    listed.iter().filter(is_ours).map(|file| file.len).sum()
}
