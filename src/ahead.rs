//! The pages in front of the append position, kept writable.
//!
//! Once the kernel has written a page back, the next store to it takes a fault of some microseconds, which an append
//! should not have to wait for. Only pages that appends are about to reach are touched: whatever is made writable is
//! written back once more.
//!
//! Of a page to which a store would raise `SIGBUS`, this is where the log learns that before an append comes to it.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::segment::{Pages, Segment, in_steps};
use crate::storage::is_fault;
use crate::sync::Arc;

/// How often it is looked where the appends are, while there are any.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
/// Bytes that are writable at least.
const LEAST: usize = 256 << 10;
/// So many times what was appended between two looks is kept writable.
const LOOKS_AHEAD: usize = 4;

/// How far the pages are writable.
#[derive(Default)]
pub(crate) struct Ahead {
    /// The segment that was appended to at the last look.
    ordinal: u64,
    position: usize,
    /// Behind it, nothing was done yet.
    done: usize,
    /// The spare that comes next, if its front was done: a rotation must not begin with a fault either.
    next: u64,
    /// The system has no such call.
    unsupported: bool,
}

/// Pages that cannot be made writable.
pub(crate) struct Refused {
    pub(crate) pages: Arc<Pages>,
    pub(crate) range: Range<usize>,
}

impl Ahead {
    /// Makes all pages of a new log writable: of `active`, and of `next`, the next segment.
    ///
    /// # Errors
    /// The first that are refused.
    pub(crate) fn cover(&mut self, active: &Segment, next: Option<Arc<Pages>>) -> Result<(), Refused> {
        if let Some(pages) = active.pages() {
            self.populate(&pages, 0..active.capacity())?;
            (self.ordinal, self.position, self.done) = (active.ordinal(), active.end().offset, active.capacity());
        }
        self.reach_into(next, usize::MAX)
    }

    /// Looks where the appends are in `active`, and makes writable what they will reach soon, some of it in `next`, the
    /// next segment.
    ///
    /// # Errors
    /// The first pages that are refused; the next look asks for them again.
    pub(crate) fn look(&mut self, active: &Segment, next: Option<Arc<Pages>>) -> Result<(), Refused> {
        let position = active.end().offset;
        let moved = (self.ordinal, self.position) != (active.ordinal(), position);
        if moved && !self.unsupported {
            self.advance(active, position, next)?;
        }
        (self.ordinal, self.position) = (active.ordinal(), position);
        Ok(())
    }

    fn advance(&mut self, active: &Segment, position: usize, next: Option<Arc<Pages>>) -> Result<(), Refused> {
        let before = (self.ordinal == active.ordinal()).then_some((self.position, self.done));
        let (range, window) = reach(before, position, active.capacity());
        if let Some(pages) = active.pages() {
            // The kernel may have written these back since they were asked for, and every append stores to them.
            self.populate(&pages, PAGE..FRAMES_AT)?;
            let page = position - position % PAGE;
            self.populate(&pages, page..(page + PAGE).min(active.capacity()))?;
            self.populate(&pages, range.clone())?;
            if !range.is_empty() {
                self.done = range.end;
            }
        }
        if position.saturating_add(window) >= active.capacity() { self.reach_into(next, window) } else { Ok(()) }
    }

    /// Makes the front of the next segment writable, once.
    fn reach_into(&mut self, next: Option<Arc<Pages>>, window: usize) -> Result<(), Refused> {
        if let Some(pages) = next.filter(|pages| pages.ordinal() != self.next) {
            self.populate(&pages, 0..FRAMES_AT.saturating_add(window).min(pages.map().len()))?;
            self.next = pages.ordinal();
        }
        Ok(())
    }

    /// What the system does not make writable for want of the call or of memory, a store does, by a fault.
    fn populate(&mut self, pages: &Arc<Pages>, range: Range<usize>) -> Result<(), Refused> {
        if range.is_empty() || self.unsupported || pages.lacks_space() {
            return Ok(());
        }
        pages.map().will_need(range.clone());
        match in_steps(range.clone(), |step| pages.map().populate_write(step)) {
            Err(e) if is_fault(&e) => Err(Refused { pages: Arc::clone(pages), range }),
            other => {
                self.unsupported = other.is_err_and(|e| is_no_call(&e));
                Ok(())
            }
        }
    }
}

/// Whether the system does not know the call.
fn is_no_call(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// The pages that should be made writable now, and how many bytes in front of `position` are to be: `before` is where the
/// appends were, and how far it was done, at the last look at the same segment.
fn reach(before: Option<(usize, usize)>, position: usize, capacity: usize) -> (Range<usize>, usize) {
    let (last, done) = before.unwrap_or((FRAMES_AT, 0));
    let step = position.saturating_sub(last);
    let window = LEAST.max(step.saturating_mul(LOOKS_AHEAD)).next_multiple_of(PAGE);
    let from = done.max(position - position % PAGE);
    let to = position.saturating_add(window).next_multiple_of(PAGE).min(capacity);
    // Half a window is worth a call; less is left to the next look.
    let worth = to.saturating_sub(from) >= window / 2 || to == capacity || before.is_none();
    (if worth { from..to.max(from) } else { from..from }, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 64 << 20;

    #[test]
    fn a_window_in_front_of_the_position_is_made_writable() {
        let (range, window) = reach(None, FRAMES_AT, CAPACITY);
        assert_eq!((range, window), (FRAMES_AT..FRAMES_AT + LEAST, LEAST));
    }

    #[test]
    fn nothing_is_done_twice_and_little_is_left_for_later() {
        let done = FRAMES_AT + LEAST;
        let (range, _) = reach(Some((FRAMES_AT, done)), FRAMES_AT + 8, CAPACITY);
        assert!(range.is_empty());
        let before = FRAMES_AT + LEAST / 2 - LEAST / 8;
        let (range, _) = reach(Some((before, done)), FRAMES_AT + LEAST / 2, CAPACITY);
        assert_eq!(range, done..done + LEAST / 2);
    }

    #[test]
    fn fast_appends_get_a_larger_window_and_overtaking_ones_none_behind_them() {
        let position = FRAMES_AT + (8 << 20);
        let (range, window) = reach(Some((FRAMES_AT, FRAMES_AT + LEAST)), position, CAPACITY);
        assert_eq!((range, window), (position..position + (32 << 20), 32 << 20));
    }

    #[test]
    fn the_window_ends_with_the_segment() {
        let (range, _) = reach(Some((CAPACITY - 20_000, CAPACITY - 8192)), CAPACITY - 100, CAPACITY);
        assert_eq!(range, CAPACITY - 4096..CAPACITY);
        let (range, _) = reach(Some((CAPACITY - 100, CAPACITY)), CAPACITY, CAPACITY);
        assert!(range.is_empty());
    }
}
