//! Where the records of a log stand, as long as nothing is damaged.

use std::path::{Path, PathBuf};

use mmap_wal::Error;
use mmap_wal::inspect::{Log, SegmentRole, SegmentStat};

/// Bytes of a frame before its payload.
const HEADER: u64 = 24;

/// A record in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    /// Where its frame begins, and how many bytes its checksum stands for and covers.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// A segment that is not empty, and its records that are not truncated.
pub(crate) struct Segment {
    pub(crate) ordinal: u64,
    pub(crate) name: String,
    pub(crate) places: Vec<Place>,
    /// Below this offset everything is known to have been durable, as far as its frames testify.
    pub(crate) witnessed: u64,
}

/// The segments of a log in order.
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    /// Those that the manifest calls sealed.
    pub(crate) sealed: Vec<Segment>,
    /// The last one, if it has records.
    pub(crate) active: Option<Segment>,
}

impl Layout {
    /// Looks at the log in `dir`.
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let log = Log::open(dir)?;
        let stat = log.stat()?;
        let (mut sealed, mut active) = (Vec::new(), None);
        for segment in &stat.segments {
            match segment.role {
                SegmentRole::Sealed => sealed.push(Segment::of(&log, segment, stat.first_seq)?),
                SegmentRole::Active => {
                    let mut last = Segment::of(&log, segment, stat.first_seq)?;
                    if stat.closed {
                        last.witnessed = segment.end_offset;
                    }
                    active = Some(last);
                }
                _ => {}
            }
        }
        if stat.seal_pending {
            // For the manifest it is the active one.
            sealed.pop();
        }
        let is_used = |segment: &Segment| !segment.places.is_empty();
        sealed.retain(is_used);
        Ok(Self { dir: dir.to_owned(), sealed, active: active.filter(is_used) })
    }
}

impl Segment {
    fn of(log: &Log, stat: &SegmentStat, first_seq: u64) -> Result<Self, Error> {
        let frames = log.frames(stat.ordinal)?.take_while(|frame| frame.verifies && frame.offset < stat.end_offset);
        let (mut places, mut witnessed) = (Vec::new(), 0);
        for frame in frames {
            witnessed = frame.durable_offset.unwrap_or(0).max(witnessed);
            if frame.seq >= first_seq {
                places.push(Place { seq: frame.seq, offset: frame.offset, len: HEADER + u64::from(frame.len) });
            }
        }
        let name = format!("{:020}.wal", stat.ordinal);
        Ok(Self { ordinal: stat.ordinal, name, places, witnessed })
    }
}
