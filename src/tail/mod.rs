//! Following a log while it is written.

mod anew;
mod available;
mod idle;
mod source;

use std::sync::Arc;
use std::time::Duration;

use crate::board::Seat;
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::format::segment::FRAMES_AT;
use crate::reader::Reader;
use crate::segment::{End, MappedPart, Mapping, Segment};
use crate::snapshot::Record;
use crate::sync::{Instant, thread};
use crate::tail::source::{PartEnd, Place, Source, Step};
use crate::view::{Forward, Found, MapWindow};

pub use crate::tail::available::Available;
pub use crate::tail::idle::Idle;

/// Bytes that are brought in ahead at once, so that no record costs a system call.
const READ_AHEAD: usize = 64 << 20;
/// Looks at the log's positions between two looks at its manifest.
const ROUNDS: u32 = 128;
/// Time between them at least: a tail that spins is there to look at the positions.
const BETWEEN: Duration = Duration::from_millis(10);
/// Records between two times that a tail says how far it has come.
const UNSAID: u32 = 1024;

/// Follows a log: shows every record in order, waits for more, and goes on over rotations.
///
/// A tail keeps the segment it stands in mapped, whatever becomes of its file, and no other. What it shows is what is published,
/// unless it was told to show what is [durable](Tail::durable_only). What was there when it last looked is shown even if
/// it is cut off meanwhile; the cut is told then.
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// use std::time::Duration;
/// let wal = mmap_wal::Wal::open(dir.path())?;
/// let mut tail = mmap_wal::Reader::open(dir.path())?.tail(0)?;
/// assert!(tail.try_next()?.is_none());
/// wal.append(b"hello")?;
/// assert!(tail.wait(Duration::from_secs(1))?);
/// assert_eq!(tail.try_next()?.map(|record| record.payload()), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Tail {
    source: Source,
    /// The segment that it stands in, and its map.
    segment: Arc<Segment>,
    mapping: Arc<Mapping>,
    forward: Forward,
    /// Says to the handle that there is somebody who may come to any of its segments.
    _viewer: Arc<()>,
    /// Frames below are shown.
    limit: usize,
    /// The segment ends at `limit`.
    ended: bool,
    /// The segment was in the log after it had been marked as cut: where it ends is known.
    cut_known: bool,
    durable_only: bool,
    idle: Idle,
    /// What stood in `published` when the log was found to end below it: a power failure took what was there.
    refuted: Option<u64>,
    /// Up to where the segment was brought in.
    present: usize,
    /// A frame that was to be shown does not verify.
    stalled: bool,
    /// Calls that found nothing, and when one of them last looked at the manifest.
    empty: u32,
    asked: Option<Instant>,
    /// Where it says how far it has come, if it does.
    seat: Option<Seat>,
    /// Records until it says so again.
    unsaid: u32,
}

impl Reader {
    /// Follows the log from behind the record `after` on; 0 starts at the front, wherever that is.
    ///
    /// # Errors
    /// As [`Reader::snapshot`]; [`Error::Truncated`] if records above `after` were truncated, [`Error::Ahead`] if
    /// `after` was never appended.
    pub fn tail(&self, after: u64) -> Result<Tail> {
        let (storage, maps) = (self.storage.clone(), Arc::clone(&self.maps));
        Tail::open(Source::Files { storage, maps, log_id: None }, after)
    }
}

impl Tail {
    /// Follows the log of a handle.
    pub(crate) fn of_handle(engine: &Arc<Engine>, after: u64) -> Result<Self> {
        Self::open(Source::Handle { engine: Arc::clone(engine), epoch: 0 }, after)
    }

    fn open(mut source: Source, after: u64) -> Result<Self> {
        source.storage().owner().check()?;
        let snapshot = source.snapshot()?;
        let whole = snapshot.view();
        let mut window = MapWindow::default();
        let forward = Forward::through(whole, &mut window, after)?;
        let end = whole.end_of(forward.index);
        let part = window.part(whole, forward.index)?;
        let (segment, mapping) = (Arc::clone(&whole.segments[forward.index]), Arc::clone(part.mapping));
        let ended = forward.index + 1 < whole.shown;
        // Where a segment ends that is marked as cut is asked for anew: the mark may have come since.
        let (limit, ended) = if is_cut(&part, &source) { (forward.at, false) } else { (end.offset, ended) };
        let (idle, refuted, present) = (Idle::default(), None, FRAMES_AT);
        let _viewer = segment.maps().viewer();
        Ok(Self {
            source,
            segment,
            mapping,
            forward,
            _viewer,
            limit,
            ended,
            cut_known: false,
            durable_only: false,
            idle,
            refuted,
            present,
            stalled: false,
            empty: 0,
            asked: None,
            seat: None,
            unsaid: 0,
        })
    }

    /// Shows only what is durable, as whoever writes the log says, or, if `only` is false, what is published.
    #[must_use]
    pub fn durable_only(mut self, only: bool) -> Self {
        self.durable_only = only;
        // Asked for anew at the next look, also of a segment that has ended: it may not be sealed yet.
        self.limit = self.forward.at;
        self
    }

    /// Waits in this way for records of other processes.
    #[must_use]
    pub fn idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// Says, on the page that the log shows to other processes, how far this tail has come: what `mmap-wal top` shows
    /// as its lag. What was returned counts as dealt with when the next record is asked for. At most 32 readers can.
    ///
    /// # Errors
    /// [`Error::Io`] if the page cannot be written, or if there is no room for one more.
    pub fn announced(mut self) -> Result<Self> {
        let storage = self.source.storage();
        let full = || Error::io(Operation::Announce, storage.dir(), std::io::Error::other("there are 32 already"));
        self.seat = Some(Seat::take(storage)?.ok_or_else(full)?);
        self.say();
        Ok(self)
    }

    fn say(&mut self) {
        let seq = self.position();
        if let Some(seat) = &mut self.seat {
            seat.say(seq);
            self.unsaid = UNSAID;
        }
    }

    /// The last sequence number that was shown, or passed over: `after` for a tail that goes on here.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.forward.expected - 1
    }

    /// Goes on behind the record `after`, wherever that is: the way on after [`Error::Truncated`] (from `first_seq - 1`
    /// on) and [`Error::TruncatedBack`] (from `last_seq` on).
    ///
    /// # Errors
    /// As [`Reader::tail`]; the tail then stands where it stood.
    pub fn seek(&mut self, after: u64) -> Result<()> {
        let (idle, durable_only) = (self.idle, self.durable_only);
        let next = Self::open(self.source.again(), after)?.idle(idle).durable_only(durable_only);
        let seat = self.seat.take();
        *self = Self { seat, ..next };
        self.say();
        Ok(())
    }

    /// The next record, if it is there; without a system call while there is one in the segment. Of the calls that find none,
    /// one in 16, and at most one in 10 ms, looks at the manifest, if the log is followed by its files.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the next record was truncated before it was shown, [`Error::TruncatedBack`] if records
    /// that were shown were cut off: [`Tail::seek`] is the way on. (Its `last_seq` is 0 if so much was cut off and truncated
    /// since the last look that nothing says which of them stayed.) [`Error::Gap`] where records were left out, once;
    /// the next call shows what is behind. [`Error::Corrupt`], [`Error::MissingSegment`], [`Error::NoManifest`] or
    /// [`Error::Io`] if the log cannot be trusted any more.
    pub fn try_next(&mut self) -> Result<Option<Record<'_>>> {
        self.segment.owner().check()?;
        if self.seat.is_some() {
            self.count_down();
        }
        if !self.ready_now()? {
            return Ok(None);
        }
        let part = MappedPart::new(&self.segment, &self.mapping, up_to(self.limit));
        let place = match self.forward.read_part(&part) {
            Ok(found) => found.place,
            Err(e) => {
                self.doubt(e)?;
                return Ok(None);
            }
        };
        Ok(Some(Record::shown(Found::of(&self.part(), place))))
    }

    /// What is there now, up to the end of the segment at most: an iterator that looks at the log's position once, when
    /// it is made. Whatever it leaves, because it was dropped or because of damage, the next one shows or tells.
    ///
    /// # Errors
    /// As [`Tail::try_next`].
    pub fn available(&mut self) -> Result<Available<'_>> {
        self.segment.owner().check()?;
        self.say();
        if self.ready_now()? && std::mem::take(&mut self.stalled) {
            // The last iterator stopped at a frame that does not verify.
            if let Err(e) = self.forward.clone().read_part(&self.part()) {
                self.doubt(e)?;
            }
        }
        let Self { segment, mapping, forward, limit, stalled, .. } = self;
        Ok(Available { part: MappedPart::new(segment, mapping, up_to(*limit)), forward, stalled })
    }

    /// The segment, up to where it is visible.
    fn part(&self) -> MappedPart<'_> {
        MappedPart::new(&self.segment, &self.mapping, up_to(self.limit))
    }

    /// Waits until there is a record to show, for at most `timeout`; returns whether there is. A tail of a [`Wal`] is
    /// woken by its appends (or, if it shows what is durable, by its syncs); one of a [`Reader`] looks as
    /// [`Tail::idle`] says.
    ///
    /// [`Wal`]: crate::Wal
    ///
    /// # Errors
    /// As [`Tail::try_next`]; [`Error::Closed`] or [`Error::Poisoned`] if there is nothing more to show and the [`Wal`]
    /// will not append any more.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        self.segment.owner().check()?;
        let deadline = Instant::now().checked_add(timeout);
        let mut asked: Option<Instant> = None;
        for round in (0..=u32::MAX).cycle() {
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            let is_due = || round.is_multiple_of(ROUNDS) && asked.is_none_or(|asked| asked.elapsed() >= BETWEEN);
            let asks = left.is_zero() || is_due();
            if asks {
                asked = Some(Instant::now());
            }
            if self.ready()? || (asks && self.consult()? && self.ready()?) {
                return Ok(true);
            }
            if left.is_zero() {
                break;
            }
            self.pause(round, left)?;
        }
        Ok(false)
    }

    /// Says how far it has come every so many records, and whenever it waits.
    fn count_down(&mut self) {
        match self.unsaid.checked_sub(1) {
            Some(left) => self.unsaid = left,
            None => self.say(),
        }
    }

    fn pause(&mut self, round: u32, left: Duration) -> Result<()> {
        self.say();
        let Source::Handle { engine, .. } = &self.source else {
            self.idle.pause(round, left);
            return Ok(());
        };
        let engine = Arc::clone(engine);
        engine.callback.check()?;
        let spins = matches!(self.idle, Idle::Spin | Idle::Yield);
        let watch = if spins { None } else { engine.watch() };
        // After the watch has begun, so that an end which comes later is told; before the look, so that what came before
        // the end is shown first.
        let goes_on = engine.commit.check_more(self.durable_only);
        if self.ready()? {
            return Ok(());
        }
        goes_on?;
        match watch {
            Some(watch) => watch.wait(left),
            None if spins => self.idle.pause(round, left),
            // Somebody appends at this moment.
            None => thread::yield_now(),
        }
        Ok(())
    }

    /// Whether there is a frame to show, looking at the log if there was none.
    fn ready(&mut self) -> Result<bool> {
        while self.forward.at == self.limit {
            if !self.look()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks how far the segment is visible, and at the log if it has ended or was cut; returns whether anything is new.
    fn look(&mut self) -> Result<bool> {
        if self.ended {
            return self.consult();
        }
        let part = self.part();
        let published = part.published();
        let mut offset = published.offset.unwrap_or(self.limit);
        if let Source::Handle { .. } = self.source {
            // Behind that, the file shows what the next writer appended since this handle was closed.
            offset = offset.min(self.segment.end().offset);
        }
        // Whoever writes again may have come to the same place.
        if self.refuted == Some(published.word) && self.forward.clone().read_part(&part.up_to(offset)).is_err() {
            return Ok(false);
        }
        if published.cut {
            return self.consult();
        }
        if offset < self.forward.at {
            return Ok(self.consult()? || self.is_behind()?);
        }
        let visible = if self.durable_only { offset.min(part.durable()) } else { offset };
        if visible > self.limit {
            self.show_up_to(visible);
            return Ok(true);
        }
        if published.closed { self.consult() } else { Ok(false) }
    }

    fn show_up_to(&mut self, limit: usize) {
        if matches!(self.source, Source::Files { .. }) && !self.ended {
            self.mapping.show(limit);
        }
        if limit > self.present {
            let ahead = self.present.saturating_add(READ_AHEAD).max(limit).min(self.segment.capacity());
            // What lies behind `limit` is only brought in to save calls: what cannot be is told when it is shown.
            let _ = self.mapping.bring_in(self.present, ahead);
            self.present = ahead;
        }
        (self.limit, self.refuted) = (limit, None);
    }

    /// Asks how the log goes on, and goes there; returns whether anything is new.
    fn consult(&mut self) -> Result<bool> {
        let moved = self.map_anew()?;
        let expected = self.forward.expected;
        // Before the manifest: what that says then is newer than the mark.
        let marked = is_cut(&self.part(), &self.source);
        let (ordinal, cut) = (self.segment.ordinal(), marked && !self.cut_known);
        let place = Place { ordinal, salt: self.segment.salt(), at: self.forward.at, expected, cut };
        let outline = self.source.outline(place)?;
        self.cut_known = marked && outline.names(ordinal);
        match outline.step(place)? {
            Step::Wait => Ok(moved),
            Step::Until(end) => Ok(self.end_at(end)),
            Step::Enter { ordinal, base_seq, end } => self.enter(ordinal, base_seq, end),
        }
    }

    /// The segment ends at `end`; returns whether anything is new.
    fn end_at(&mut self, end: PartEnd) -> bool {
        let durable = end.durable || !self.durable_only;
        let limit = if durable { end.offset } else { end.offset.min(self.part().durable()) };
        let before = (self.limit, self.ended);
        if limit > self.limit {
            self.show_up_to(limit);
        }
        self.ended = self.limit == end.offset;
        (self.limit, self.ended) != before
    }

    /// What was shown is not there any more, though nobody cut it off: a power failure or a failed sync took it.
    fn is_behind(&mut self) -> Result<bool> {
        let last_seq = self.source.snapshot()?.last_seq();
        if last_seq < self.position() { Err(Error::TruncatedBack { last_seq }) } else { Ok(false) }
    }

    fn enter(&mut self, ordinal: u64, base_seq: u64, end: Option<PartEnd>) -> Result<bool> {
        let expected = self.forward.expected;
        // Gone in this moment: the next look tells where to.
        let Some((segment, mapping)) = self.source.segment(ordinal, base_seq)? else { return Ok(true) };
        (self.segment, self.mapping) = (segment, mapping);
        self.forward = Forward::at_segment(0, base_seq);
        (self.limit, self.ended, self.present, self.refuted) = (FRAMES_AT, false, FRAMES_AT, None);
        self.cut_known = false;
        if let Some(end) = end.filter(|_| !is_cut(&self.part(), &self.source)) {
            self.end_at(end);
        }
        if base_seq > expected { Err(Error::Gap { from: expected, to: base_seq - 1 }) } else { Ok(true) }
    }

    /// A frame that was said to be visible does not verify: that is damage, unless a power failure took it and the log
    /// ends before it, which then is all there is to show until somebody writes again.
    fn doubt(&mut self, e: Error) -> Result<()> {
        let word = self.part().published().word;
        if self.ended || matches!(self.source, Source::Handle { .. }) {
            return Err(e);
        }
        if self.source.snapshot()?.last_seq() >= self.forward.expected {
            return Err(e);
        }
        (self.limit, self.refuted) = (self.forward.at, Some(word));
        Ok(())
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Whether the segment of `part` is marked as cut. A handle knows of its cuts by itself.
fn is_cut(part: &MappedPart<'_>, source: &Source) -> bool {
    matches!(source, Source::Files { .. }) && part.published().cut
}

/// As far as is visible of a segment that goes on.
fn up_to(limit: usize) -> End {
    End { offset: limit, count: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Background, Options, SyncMode, Wal};

    /// Waits for what never comes by itself, in a thread of its own, while `end` ends it.
    fn woken(end: impl FnOnce(&Wal)) -> Result<bool> {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new().segment_size(12 << 10).background(Background::Caller).sync_mode(SyncMode::None);
        let wal = options.open(dir.path()).expect("a new log");
        (0..3).for_each(|_| assert!(wal.append(b"x").is_ok()));
        // A sync wakes as well, and a cut begins with one where anything is not durable.
        wal.sync().expect("a sync");
        let mut tail = wal.tail(3).expect("a tail");
        let Source::Handle { engine, .. } = &tail.source else { panic!("a tail of a handle") };
        let engine = Arc::clone(engine);
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || tell.send(tail.wait(Duration::MAX)));
        while !engine.commit.watch.is_watched() {
            thread::yield_now();
        }
        end(&wal);
        // So long only where it fails, and then the thread stays.
        let woken = told.recv_timeout(Duration::from_secs(30)).expect("nothing wakes the tail");
        waiter.join().expect("the waiter").expect("a receiver");
        woken
    }

    #[test]
    fn whatever_happens_to_the_log_wakes_its_tail() {
        assert!(matches!(woken(|wal| assert!(wal.append(b"y").is_ok())), Ok(true)));
        assert!(matches!(woken(|wal| wal.truncate_back(1).expect("a cut")), Err(Error::TruncatedBack { last_seq: 1 })));
        assert!(matches!(woken(|wal| wal.reset(10).expect("a reset")), Err(Error::TruncatedBack { last_seq: 0 })));
        assert!(matches!(woken(|wal| wal.close().expect("a close")), Err(Error::Closed)));
    }
}
