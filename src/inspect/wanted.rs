//! Which records of a log a copy takes.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::segment::FRAMES_AT;
use crate::manifest::Manifest;
use crate::snapshot::Snapshot;
use crate::view::{Forward, Found, Located, MapWindow, View};

/// The number with which a copy of what is behind `after` begins.
pub(crate) fn first_wanted(snapshot: &Snapshot, after: u64) -> Result<u64> {
    let (first_seq, last_seq) = (snapshot.first_seq(), snapshot.last_seq());
    match after {
        0 => Ok(first_seq),
        _ if after > last_seq => Err(Error::Ahead { last_seq }),
        _ if after + 1 < first_seq => Err(Error::Truncated { first_seq }),
        // Where the front was truncated inside a batch, the log begins there too.
        _ if after + 1 == first_seq => Ok(first_seq),
        _ => match snapshot.end_of(after)? {
            Some((_, false)) => Err(Error::InsideBatch { seq: after }),
            _ => Ok(after + 1),
        },
    }
}

/// Refuses a finished copy that what the log has does not continue.
pub(crate) fn refuse_apart(dir: &Path, copy: &Manifest, view: &View, first_seq: u64) -> Result<()> {
    let (copy_first, copy_end) = (copy.header.first_seq, copy.active().base_seq);
    let reason = if copy_first > first_seq {
        format!(
            "the copy that is there begins with record {copy_first}, and records from {first_seq} on are wanted; \
             say so (`--after {}`), or give another directory",
            copy_first - 1
        )
    } else if copy_end > view.last_seq() + 1 {
        format!(
            "the copy that is there ends with record {}, and the log with {}: it was cut back, or has lost them; keep \
             the copy, and give another directory",
            copy_end - 1,
            view.last_seq()
        )
    } else if copy_end < view.first_seq {
        format!(
            "the copy that is there ends with record {}, and the log begins with {}: what is between was truncated \
             before it was copied; keep the copy, and give another directory",
            copy_end - 1,
            view.first_seq
        )
    } else {
        return Ok(());
    };
    Err(Error::destination(dir, reason))
}

/// Refuses a finished copy in which a repair has left out the numbers `absent`, if the log has any of them.
pub(crate) fn refuse_lack(dir: &Path, view: &View, absent: Range<u64>) -> Result<()> {
    match following(view, absent.start.max(view.first_seq)).filter(|seq| *seq < absent.end) {
        Some(seq) => {
            let reason =
                format!("the copy that is there lacks record {seq}, which the log has; give another directory");
            Err(Error::destination(dir, reason))
        }
        None => Ok(()),
    }
}

/// The records of a view in order, through one map at a time; what was lost in a repair is passed over.
pub(crate) struct Records<'a> {
    view: &'a View,
    forward: Forward,
    window: MapWindow,
}

impl<'a> Records<'a> {
    /// From behind the record `after` on.
    pub(crate) fn behind(view: &'a View, after: u64) -> Result<Self> {
        let mut window = MapWindow::default();
        let forward = Forward::through(view, &mut window, after)?;
        Ok(Self { view, forward, window })
    }

    /// The next record.
    pub(crate) fn next(&mut self) -> Result<Option<Located>> {
        loop {
            match self.forward.advance_in(self.view, &mut self.window) {
                Some(Err(Error::Gap { .. })) => {}
                other => return Ok(other.transpose()?.map(|found| found.place)),
            }
        }
    }

    /// The payload of the record at `place`, the one that came last.
    pub(crate) fn payload(&mut self, place: Located) -> Result<&[u8]> {
        let part = self.window.part(self.view, place.index)?;
        Ok(Found::of(&part, place).payload)
    }
}

/// The number of the first record from `seq` on.
pub(crate) fn following(view: &View, seq: u64) -> Option<u64> {
    let segments = view.segment_before(seq)..view.shown;
    let mut segments = segments.map(|index| (view.segments[index].base_seq(), view.end_of(index).count));
    segments.find(|(base, count)| *count > 0 && base + count > seq).map(|(base, _)| base.max(seq))
}

/// How many bytes of frames there are from the record `seq` on.
pub(crate) fn bytes_behind(view: &View, seq: u64) -> Result<u64> {
    if seq > view.last_seq() {
        return Ok(0);
    }
    let from = Forward::through(view, &mut MapWindow::default(), seq - 1)?;
    let whole: usize = (from.index + 1..view.shown).map(|index| view.end_of(index).offset - FRAMES_AT).sum();
    Ok((whole + view.end_of(from.index).offset - from.at) as u64)
}
