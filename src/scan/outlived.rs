//! What the fronts of unsealed segments say against the manifest: that the log went on after it was written.
//!
//! Each rule is one that no crash can break. A clean close is taken back, durably, before anything is appended; a segment
//! is started only once the manifest seals all in front of the one before; and it begins with the next number.

use crate::format::frame::HEADER;
use crate::format::segment::{begun, durable};

/// What is seen at the front of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Front {
    /// Its base, if it is begun.
    pub(crate) base: Option<u64>,
    /// The largest D that a `durable` word vouches for.
    pub(crate) durable: Option<usize>,
}

impl Front {
    /// Of a segment with these bytes before its frames, whose first frame that verifies is `first`.
    pub(crate) fn of(head: &[u8], salt: u32, capacity: usize, first: Option<u64>) -> Self {
        let base = begun(head, salt).or(first.filter(|seq| *seq >= 1));
        Self { base, durable: durable(head, salt, capacity) }
    }
}

/// What is seen of the active segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub(crate) durable: Option<usize>,
    /// Whether a frame verifies at the manifest's `clean_offset`.
    pub(crate) goes_on: bool,
    /// e: the seq expected at its cut.
    pub(crate) next_seq: u64,
    /// How many bytes are behind its cut.
    pub(crate) room: usize,
}

/// Which segment says that the manifest is older than the segments, and how: 0 is the active one, 1 + i is spare i. What is
/// not there says nothing.
pub(crate) fn outlived(
    base_seq: u64,
    clean_offset: u64,
    active: Option<Active>,
    spares: &[Option<Front>],
) -> Option<(usize, &'static str)> {
    let is_closed = clean_offset != 0;
    let appended = active.is_some_and(|it| it.goes_on || it.durable.is_some_and(|d| d as u64 > clean_offset));
    if is_closed && appended {
        return Some((0, "was appended to after the close that the manifest knows of"));
    }
    let fronts = || spares.iter().enumerate().filter_map(|(i, front)| Some((1 + i, (*front)?)));
    if is_closed && let Some((i, _)) = fronts().find(|(_, front)| *front != Front::default()) {
        return Some((i, "was begun after the close that the manifest knows of"));
    }
    let begun = || fronts().filter_map(|(i, front)| Some((i, front.base?)));
    if let Some((i, _)) = begun().nth(1) {
        return Some((i, "is the second one that was begun behind the active one of the manifest"));
    }
    let next_seq = active.map_or(base_seq, |active| active.next_seq);
    if let Some((i, _)) = begun().find(|(_, base)| *base < next_seq) {
        return Some((i, "begins with a number that was cut off after the manifest was written"));
    }
    let room = (active?.room / HEADER) as u64;
    let beyond = begun().find(|(_, base)| *base - next_seq > room);
    beyond.map(|(i, _)| (i, "begins with a number that the segment before cannot come to"))
}
