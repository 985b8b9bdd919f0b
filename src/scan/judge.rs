//! The judgement: which unsealed segment is the last one, where it ends, and whether that is an end or damage.

use super::evidence::{Behind, Window, holds_frame, search};
use super::frames::{Walk, walk};
use super::is_zero;
use super::outlived::{Active, Front, outlived};
use crate::format::PAGE;
use crate::format::frame::{self, HEADER};
use crate::format::manifest::Entry;
use crate::format::segment::{FRAMES_AT, durable};
use core::cmp::Ordering;

/// A segment that the manifest does not call sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsealed<'a> {
    /// The bytes before [`FRAMES_AT`].
    pub(crate) head: &'a [u8],
    /// The bytes from [`FRAMES_AT`] on, to the capacity.
    pub(crate) frames: &'a [u8],
    pub(crate) entry: Entry,
}

impl Unsealed<'_> {
    fn capacity(&self) -> usize {
        FRAMES_AT + self.frames.len()
    }

    /// The largest D that a `durable` word vouches for.
    fn durable(&self) -> Option<usize> {
        durable(self.head, self.entry.salt, self.capacity())
    }
}

/// What is behind the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing that matters.
    Clean,
    /// Something that was being written.
    Torn,
    /// What the file held before it was recycled.
    EarlierLife,
}

/// Where a log ends. Segments are numbered as given: 0 is the active one, 1 + i is spare i.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The segment in which the log ends.
    pub(crate) judged: usize,
    /// End offset and last seq of the active segment, if the log ends in a spare.
    pub(crate) completed: Option<(usize, u64)>,
    /// The base of the judged segment.
    pub(crate) base_seq: u64,
    /// The walk of the judged segment; the log ends at its `cut`.
    pub(crate) walk: Walk,
    /// E: everything below was durable. At least 8192, at most `cut`.
    pub(crate) durable: usize,
    /// The same of the active segment.
    pub(crate) active_durable: usize,
    pub(crate) tail: Tail,
    /// Whole frames of this segment's life at `cut` or behind.
    pub(crate) frames_cut: u64,
}

/// Durable bytes that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Numbered as in [`Judged`].
    pub(crate) segment: usize,
    /// Where the first lost record should be.
    pub(crate) offset: usize,
    pub(crate) expected_seq: u64,
    /// Up to where the segment is known to have been durable.
    pub(crate) durable: usize,
    /// A clause for a person.
    pub(crate) reason: &'static str,
    /// It is the manifest that is wrong: the segment says that it is older than the segments.
    pub(crate) is_stale: bool,
}

/// The end of a log that was closed cleanly at the manifest's `clean_offset`: nothing else needs to be read.
///
/// `frames` is the bytes of the active segment from [`FRAMES_AT`] on, at least those before `clean_offset`.
pub(crate) fn closed_at(frames: &[u8], entry: &Entry, clean_offset: u64) -> Option<Judged> {
    let clean = usize::try_from(clean_offset).ok()?;
    closed_by(Walk::front(entry.base_seq).on(frames, entry.salt, clean), entry, clean_offset)
}

/// The same from a walk through the frames that end at or before `clean_offset`.
pub(crate) fn closed_by(walk: Walk, entry: &Entry, clean_offset: u64) -> Option<Judged> {
    // No walk comes to an offset that is out of range or unaligned.
    let clean = usize::try_from(clean_offset).ok().filter(|clean| walk.cut == *clean)?;
    Some(Judged {
        judged: 0,
        completed: None,
        base_seq: entry.base_seq,
        walk,
        durable: clean,
        active_durable: clean,
        tail: Tail::Clean,
        frames_cut: 0,
    })
}

/// Judges a log by its unsealed segments and the manifest's `clean_offset`.
pub(crate) fn judge(active: &Unsealed<'_>, clean_offset: u64, spares: &[Unsealed<'_>]) -> Result<Judged, Damage> {
    if let Some(closed) = closed_at(active.frames, &active.entry, clean_offset) {
        let fronts: Vec<Front> = spares.iter().map(front_of).collect();
        return refuse_outlived(active, close_of(active, clean_offset), &closed.walk, &fronts).map(|()| closed);
    }
    judge_from(Walk::front(active.entry.base_seq), active, close_of(active, clean_offset), spares)
}

/// What the manifest says of a close, and whether a frame verifies where that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Close {
    pub(crate) offset: u64,
    pub(crate) goes_on: bool,
}

fn close_of(active: &Unsealed<'_>, offset: u64) -> Close {
    let at = usize::try_from(offset).unwrap_or(usize::MAX);
    let first = frame::decode(active.frames, at, active.entry.salt);
    Close { offset, goes_on: first.is_some_and(|header| header.seq >= 1) }
}

/// What is seen at the front of a spare.
fn front_of(spare: &Unsealed<'_>) -> Front {
    let Unsealed { head, frames, entry } = spare;
    let first = frame::decode(frames, FRAMES_AT, entry.salt).map(|header| header.seq);
    Front::of(head, entry.salt, spare.capacity(), first)
}

/// Refuses a manifest that is older than the segments; `n` is the walk of the active one.
fn refuse_outlived(active: &Unsealed<'_>, close: Close, n: &Walk, fronts: &[Front]) -> Result<(), Damage> {
    let room = active.capacity().saturating_sub(n.cut);
    let seen = Active { durable: active.durable(), goes_on: close.goes_on, next_seq: n.next_seq, room };
    let fronts: Vec<Option<Front>> = fronts.iter().copied().map(Some).collect();
    match outlived(active.entry.base_seq, close.offset, Some(seen), &fronts) {
        None => Ok(()),
        Some((segment, reason)) => {
            let (offset, durable) = if segment == 0 { (n.cut, n.cut) } else { (FRAMES_AT, FRAMES_AT) };
            Err(Damage { segment, offset, expected_seq: n.next_seq, durable, reason, is_stale: true })
        }
    }
}

/// Judges a log that was not closed where `close` says and whose active segment was `walked` before: what stands in front of
/// that walk's cut need not be there any more.
pub(crate) fn judge_from(
    walked: Walk,
    active: &Unsealed<'_>,
    close: Close,
    spares: &[Unsealed<'_>],
) -> Result<Judged, Damage> {
    let n = walked.on(active.frames, active.entry.salt, active.capacity());
    let clean = usize::try_from(close.offset).unwrap_or(usize::MAX);
    let known = vouched(active).max(clean);
    let fronts: Vec<Front> = spares.iter().map(front_of).collect();
    refuse_outlived(active, close, &n, &fronts)?;
    let seen = spares.iter().zip(&fronts);
    let traces: Vec<Trace> = seen.map(|(spare, front)| Trace::of(spare, front, &n, active.capacity())).collect();
    let room = active.capacity().saturating_sub(n.cut);
    let Some((k, base_seq)) = last_segment(&n, room, known, &traces)? else { return end_of(0, active, n, known) };
    let spare = &spares[k];
    let end = end_of(1 + k, spare, walk(spare.frames, spare.entry.salt, base_seq), vouched(spare))?;
    Ok(Judged {
        completed: Some((n.cut, n.next_seq.saturating_sub(1))),
        base_seq,
        // Whatever claims in a later segment says that this one was durable entirely.
        active_durable: if traces[k].claim.is_some() { n.cut } else { known.min(n.cut) },
        ..end
    })
}

/// Whether a spare was written to since it was prepared: a word or a frame stands there, or, if it is virgin, any byte
/// that is not zero. Such a spare must not be written with the same salt again.
///
/// A frame counts whatever its number: once the log has come nearer to it, it would be taken for a claim.
pub(crate) fn is_used(spare: &Unsealed<'_>) -> bool {
    let Unsealed { head, frames, entry } = spare;
    let no_words = is_zero(head.get(PAGE..).unwrap_or_default());
    !no_words || (!is_zero(frames) && (entry.virgin || holds_frame(frames, entry.salt)))
}

/// D by the `durable` word, or 8192.
fn vouched(segment: &Unsealed<'_>) -> usize {
    segment.durable().unwrap_or(FRAMES_AT)
}

/// What is seen of a spare.
#[derive(Clone, Copy, Debug, Default)]
struct Trace {
    /// Its base, if it is begun.
    base: Option<u64>,
    /// The largest D that is claimed in it.
    claim: Option<usize>,
}

impl Trace {
    fn of(spare: &Unsealed<'_>, front: &Front, n: &Walk, active_capacity: usize) -> Self {
        let (head, frames, salt) = (spare.head, spare.frames, spare.entry.salt);
        if is_zero(head.get(PAGE..).unwrap_or_default()) && is_zero(frames) {
            return Self::default();
        }
        let window = Window { next_seq: n.next_seq, ahead: active_capacity.saturating_sub(n.cut), above: 0 };
        let found = search(frames, salt, FRAMES_AT, window);
        Self { base: front.base, claim: front.durable.max(found.claim) }
    }

    /// Whether it is begun or claims.
    fn shows(&self) -> bool {
        self.base.is_some() || self.claim.is_some()
    }

    /// `room`: how many bytes of the active segment lie behind its cut.
    fn base_beside(&self, next_seq: u64, room: usize) -> Base {
        match self.base.map(|base| (base, base.cmp(&next_seq))) {
            None => Base::Unknown,
            Some((_, Ordering::Less)) => Base::Below,
            Some((_, Ordering::Equal)) => Base::Equal,
            Some((base, _)) if base - next_seq > (room / HEADER) as u64 => Base::Beyond,
            Some(_) => Base::Above,
        }
    }

    fn claimed(&self) -> Claim {
        match self.claim {
            None => Claim::None,
            Some(d) if d <= FRAMES_AT => Claim::Start,
            Some(_) => Claim::Further,
        }
    }
}

/// How many spares are begun or claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    None,
    One,
    Several,
}

/// The base of K, beside the seq that N's end expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// K is not begun.
    Unknown,
    Below,
    Equal,
    Above,
    /// Above, by more records than the active segment can have held.
    Beyond,
}

/// What K claims to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    None,
    /// All of N, nothing of K.
    Start,
    /// Something of K.
    Further,
}

/// What decides which segment is the last one.
#[derive(Clone, Copy, Debug)]
struct Seen {
    shown: Shown,
    base: Base,
    claim: Claim,
}

/// Which segment is judged, or which one is damaged and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Active,
    Spare,
    ActiveDamaged(&'static str),
    SpareDamaged(&'static str),
    /// The manifest is older than the spare.
    Stale(&'static str),
}

/// The first table under "Where the log ends".
fn choose(seen: Seen) -> Choice {
    match (seen.shown, seen.base, seen.claim) {
        (Shown::Several, _, _) => Choice::SpareDamaged("two segments were begun behind the active one"),
        (Shown::None, _, _) => Choice::Active,
        (Shown::One, Base::Unknown, Claim::Further) => {
            Choice::SpareDamaged("the start of the segment is lost, though something of it was durable")
        }
        // The first sync of K would have covered `begun`, so nothing of it was synced.
        (Shown::One, Base::Unknown, Claim::Start | Claim::None) => Choice::Active,
        (Shown::One, Base::Below, _) => Choice::Stale("begins with numbers that an earlier segment has"),
        (Shown::One, Base::Beyond, _) => Choice::Stale("begins with a number that the one before cannot come to"),
        (Shown::One, Base::Above, Claim::Start | Claim::Further) => {
            Choice::ActiveDamaged("a later segment says that all records of this one were durable")
        }
        (Shown::One, Base::Above, Claim::None) => Choice::Active,
        (Shown::One, Base::Equal, _) => Choice::Spare,
    }
}

/// The spare in which the log ends and its base, or `None` if the log ends in the active segment, N.
fn last_segment(n: &Walk, room: usize, known: usize, traces: &[Trace]) -> Result<Option<(usize, u64)>, Damage> {
    let mut showing = traces.iter().enumerate().filter(|(_, trace)| trace.shows());
    let (first, second) = (showing.next(), showing.next());
    let shown = match (first, second) {
        (None, _) => Shown::None,
        (Some(_), None) => Shown::One,
        (Some(_), Some(_)) => Shown::Several,
    };
    let (k, trace) = second.or(first).map_or((0, Trace::default()), |(k, trace)| (k, *trace));
    let choice = choose(Seen { shown, base: trace.base_beside(n.next_seq, room), claim: trace.claimed() });
    let expected_seq = n.next_seq;
    match choice {
        Choice::Active => Ok(None),
        Choice::Spare => Ok(trace.base.map(|base| (k, base))),
        Choice::ActiveDamaged(reason) => {
            let durable = known.max(n.cut);
            Err(Damage { segment: 0, offset: n.cut, expected_seq, durable, reason, is_stale: false })
        }
        Choice::SpareDamaged(reason) | Choice::Stale(reason) => {
            let (durable, is_stale) = (trace.claim.unwrap_or(FRAMES_AT), matches!(choice, Choice::Stale(_)));
            Err(Damage { segment: 1 + k, offset: FRAMES_AT, expected_seq, durable, reason, is_stale })
        }
    }
}

/// What decides what the end of the last segment is.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// cut < E.
    lost: bool,
    /// Everything from cut on is zero.
    zero: bool,
    /// cut < X.
    uncommitted: bool,
    /// A possible frame is at X or behind.
    frame: bool,
    virgin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Corrupt,
    End(Tail),
}

/// The second table under "Where the log ends".
fn verdict(facts: Facts) -> Verdict {
    let remains = facts.uncommitted || facts.frame || facts.virgin;
    match (facts.lost, facts.zero, remains) {
        (true, _, _) => Verdict::Corrupt,
        (false, true, _) => Verdict::End(Tail::Clean),
        (false, false, true) => Verdict::End(Tail::Torn),
        (false, false, false) => Verdict::End(Tail::EarlierLife),
    }
}

/// The end of the last segment. `known` is its evidence apart from frames.
fn end_of(judged: usize, segment: &Unsealed<'_>, walk: Walk, known: usize) -> Result<Judged, Damage> {
    let Unsealed { frames, entry, .. } = segment;
    let zero = is_zero(frames.get(walk.cut - FRAMES_AT..).unwrap_or_default());
    let window = Window { next_seq: walk.next_seq, ahead: walk.x - walk.cut, above: walk.cut };
    let behind = if zero { Behind::default() } else { search(frames, entry.salt, walk.x, window) };
    let durable = known.max(behind.claim.unwrap_or(FRAMES_AT));
    let facts = Facts {
        lost: walk.cut < durable,
        zero,
        uncommitted: walk.cut < walk.x,
        frame: behind.frames > 0,
        virgin: entry.virgin,
    };
    match verdict(facts) {
        Verdict::Corrupt => {
            let reason = "records that were durable do not verify";
            let (offset, expected_seq) = (walk.cut, walk.next_seq);
            Err(Damage { segment: judged, offset, expected_seq, durable, reason, is_stale: false })
        }
        Verdict::End(tail) => Ok(Judged {
            judged,
            completed: None,
            base_seq: entry.base_seq,
            walk,
            durable,
            active_durable: durable,
            tail,
            frames_cut: walk.frames_behind_cut.saturating_add(behind.frames),
        }),
    }
}

#[cfg(test)]
mod tests {
    //! That both tables have exactly one row for every input, that the code is that row, and that bytes lead to the
    //! facts. Not proved here: that the writer leaves such bytes.
    use super::*;
    use crate::format::put;
    use crate::format::segment::{BEGUN_AT, DURABLE_AT, MIN_CAPACITY, check};
    use crate::scan::frames::tests::{SALT, plant};
    use proptest::prelude::*;

    #[test]
    fn exactly_one_row_of_the_first_table_holds() {
        for shown in [Shown::None, Shown::One, Shown::Several] {
            for base in [Base::Unknown, Base::Below, Base::Equal, Base::Above, Base::Beyond] {
                for claim in [Claim::None, Claim::Start, Claim::Further] {
                    let (one, begun) = (shown == Shown::One, base != Base::Unknown);
                    let rows = [
                        (shown == Shown::Several, 'k'),
                        (shown == Shown::None, 'N'),
                        (one && !begun && claim == Claim::Further, 'k'),
                        (one && !begun && claim != Claim::Further, 'N'),
                        (one && begun && base == Base::Below, 's'),
                        (one && begun && base == Base::Beyond, 's'),
                        (one && begun && base == Base::Above && claim != Claim::None, 'n'),
                        (one && begun && base == Base::Above && claim == Claim::None, 'N'),
                        (one && begun && base == Base::Equal, 'K'),
                    ];
                    let holding: Vec<char> = rows.iter().filter(|row| row.0).map(|row| row.1).collect();
                    let chosen = match choose(Seen { shown, base, claim }) {
                        Choice::Active => 'N',
                        Choice::Spare => 'K',
                        Choice::ActiveDamaged(_) => 'n',
                        Choice::SpareDamaged(_) => 'k',
                        Choice::Stale(_) => 's',
                    };
                    assert_eq!(holding, [chosen], "{shown:?} {base:?} {claim:?}");
                }
            }
        }
    }

    #[test]
    fn exactly_one_row_of_the_second_table_holds() {
        for bits in 0..32_u8 {
            let bit = |i: u8| bits & (1 << i) != 0;
            let (lost, zero, uncommitted, frame, virgin) = (bit(0), bit(1), bit(2), bit(3), bit(4));
            let facts = Facts { lost, zero, uncommitted, frame, virgin };
            let rows = [
                (lost, Verdict::Corrupt),
                (!lost && zero, Verdict::End(Tail::Clean)),
                (!lost && !zero && (uncommitted || frame || virgin), Verdict::End(Tail::Torn)),
                (!lost && !zero && !uncommitted && !frame && !virgin, Verdict::End(Tail::EarlierLife)),
            ];
            let holding: Vec<Verdict> = rows.iter().filter(|row| row.0).map(|row| row.1).collect();
            assert_eq!(holding, [verdict(facts)], "{facts:?}");
        }
    }

    /// A segment being made up, and what the manifest says of it.
    #[derive(Clone)]
    struct File {
        bytes: Vec<u8>,
        entry: Entry,
    }

    impl File {
        fn new(base_seq: u64) -> Self {
            let capacity = MIN_CAPACITY as u64;
            let entry = Entry { ordinal: 1, salt: SALT, virgin: true, capacity, base_seq, end_offset: 0, last_seq: 0 };
            Self { bytes: vec![0; MIN_CAPACITY], entry }
        }

        /// Fifteen-byte records, 40 bytes a frame, that claim `d`.
        fn frames(mut self, at: usize, seqs: core::ops::Range<u64>, d: Option<usize>) -> Self {
            seqs.fold(at, |at, seq| plant(&mut self.bytes[FRAMES_AT..], at, 15, seq, d, true));
            self
        }

        fn word(mut self, at: usize, value: u64) -> Self {
            put(&mut self.bytes, at, &value.to_le_bytes());
            put(&mut self.bytes, at + 8, &check(SALT, value).to_le_bytes());
            self
        }

        fn byte(mut self, at: usize) -> Self {
            self.bytes[at] ^= 0x80;
            self
        }

        fn recycled(mut self) -> Self {
            self.entry.virgin = false;
            self
        }

        fn unsealed(&self) -> Unsealed<'_> {
            let (head, frames) = self.bytes.split_at(FRAMES_AT.min(self.bytes.len()));
            Unsealed { head, frames, entry: self.entry }
        }
    }

    fn judge_files(active: &File, clean_offset: usize, spares: &[File]) -> Result<Judged, Damage> {
        let spares: Vec<Unsealed<'_>> = spares.iter().map(File::unsealed).collect();
        let judged = judge(&active.unsealed(), clean_offset as u64, &spares);
        let frames = active.bytes.get(FRAMES_AT..).unwrap_or_default();
        if closed_at(frames, &active.entry, clean_offset as u64).is_none() {
            let walked = walk(frames, active.entry.salt, active.entry.base_seq);
            let mut behind = active.clone();
            behind.bytes.iter_mut().take(walked.cut).skip(FRAMES_AT).for_each(|byte| *byte = 0);
            let close = close_of(&active.unsealed(), clean_offset as u64);
            let again = judge_from(walked, &behind.unsealed(), close, &spares);
            assert_eq!(again, judged, "what was walked matters");
        }
        judged
    }

    /// Records 1 to 3.
    fn three() -> File {
        File::new(1).frames(FRAMES_AT, 1..4, Some(FRAMES_AT))
    }

    /// Where record `i` of a segment begins, counted from 0.
    fn place(i: usize) -> usize {
        FRAMES_AT + i * 40
    }

    fn begun_with(base: u64) -> File {
        File::new(0).word(BEGUN_AT[1], base)
    }

    #[test]
    fn a_log_in_one_segment_ends_clean() {
        let judged = judge_files(&three(), 0, &[File::new(0)]).unwrap();
        assert_eq!((judged.judged, judged.completed, judged.base_seq), (0, None, 1));
        assert_eq!((judged.walk.cut, judged.walk.next_seq, judged.tail), (place(3), 4, Tail::Clean));
        assert_eq!((judged.durable, judged.active_durable), (FRAMES_AT, FRAMES_AT));
        assert_eq!(judged.frames_cut, 0);
    }

    #[test]
    fn a_torn_end_is_cut_and_counted() {
        let torn = three().byte(place(1)).word(DURABLE_AT[1], place(1) as u64);
        let judged = judge_files(&torn, 0, &[]).unwrap();
        assert_eq!((judged.walk.cut, judged.tail, judged.frames_cut), (place(1), Tail::Torn, 1));
        assert_eq!((judged.durable, judged.active_durable), (place(1), place(1)));
        let batch = |mut file: File| {
            plant(&mut file.bytes[FRAMES_AT..], place(3), 0, 4, None, false);
            judge_files(&file, 0, &[]).unwrap()
        };
        let judged = batch(three().recycled());
        assert_eq!((judged.walk.cut, judged.tail, judged.frames_cut), (place(3), Tail::Torn, 1));
    }

    #[test]
    fn a_byte_behind_is_torn_in_a_virgin_segment_and_earlier_life_in_a_recycled_one() {
        let tail = |file: File| judge_files(&file.byte(place(7)), 0, &[]).unwrap().tail;
        assert_eq!((tail(three()), tail(three().recycled())), (Tail::Torn, Tail::EarlierLife));
    }

    /// What a clean close of `file` at `clean` is, by the rule of its own and by the whole judgement.
    fn close(file: &File, clean: usize, spares: &[File]) -> Option<Judged> {
        let only = file.bytes.get(FRAMES_AT..clean).unwrap_or_default();
        let closed = closed_at(only, &file.entry, clean as u64);
        assert_eq!(closed_at(&file.bytes[FRAMES_AT..], &file.entry, clean as u64), closed, "the bytes behind matter");
        match judge_files(file, clean, spares) {
            Err(Damage { is_stale: true, .. }) => None,
            judged => closed.inspect(|closed| assert_eq!(judged.as_ref(), Ok(closed))),
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a checksum over a page takes a minute")]
    fn a_log_that_was_closed_ends_there() {
        for (records, next_seq) in [(0, 1), (1, 2), (3, 4)] {
            let file = File::new(1).frames(FRAMES_AT, 1..1 + records as u64, Some(FRAMES_AT));
            let (clean, judged) = (place(records), close(&file, place(records), &[]).unwrap());
            let walk = Walk { x: clean, cut: clean, next_seq, frames_behind_cut: 0 };
            assert_eq!((judged.walk, judged.tail, judged.frames_cut), (walk, Tail::Clean, 0));
            assert_eq!((judged.judged, judged.completed, judged.base_seq), (0, None, 1));
            assert_eq!((judged.durable, judged.active_durable), (clean, clean));
        }
        let mut full = File::new(1);
        plant(&mut full.bytes[FRAMES_AT..], FRAMES_AT, PAGE - frame::HEADER, 1, None, true);
        assert_eq!(close(&full, MIN_CAPACITY, &[]).unwrap().walk.next_seq, 2);
    }

    #[test]
    fn bytes_behind_a_clean_close_are_not_looked_at() {
        let noise = three().byte(place(3)).byte(place(7));
        let claim = three().frames(place(5), 4..5, Some(place(5)));
        for file in [noise, claim] {
            assert!(close(&file, place(3), &[File::new(0).byte(PAGE)]).is_some());
            assert_ne!(judge_files(&file, 0, &[]).ok().map(|judged| judged.tail), Some(Tail::Clean), "it matters");
        }
    }

    /// Each of them is stored only after the close was taken back.
    #[test]
    fn a_log_that_went_on_after_a_clean_close_outlived_the_manifest() {
        let word = three().word(DURABLE_AT[0], place(9) as u64);
        let mut batch = three();
        plant(&mut batch.bytes[FRAMES_AT..], place(3), 0, 4, None, false);
        for file in [word, batch] {
            let damage = judge_files(&file, place(3), &[]).unwrap_err();
            assert_eq!((damage.segment, damage.is_stale), (0, true));
        }
        let follows = || begun_with(4).frames(FRAMES_AT, 4..6, Some(place(1)));
        let durable = File::new(0).word(DURABLE_AT[1], place(0) as u64);
        for spares in [vec![follows()], vec![follows(), follows()], vec![begun_with(1)], vec![durable]] {
            let damage = judge_files(&three(), place(3), &spares).unwrap_err();
            assert_eq!((damage.segment, damage.is_stale), (1, true));
        }
    }

    #[test]
    fn a_spare_that_no_crash_leaves_outlived_the_manifest() {
        let of = |spares: &[File]| judge_files(&three(), 0, spares).map_err(|damage| (damage.segment, damage.is_stale));
        assert_eq!(of(&[begun_with(3)]).err(), Some((1, true)), "a number of the active segment");
        assert_eq!(of(&[begun_with(4), begun_with(5)]).err(), Some((2, true)), "two of them");
        // Behind the three records there is room for so many more.
        let room = ((MIN_CAPACITY - place(3)) / frame::HEADER) as u64;
        assert_eq!(of(&[begun_with(4 + room)]).map(|judged| judged.judged), Ok(0));
        assert_eq!(of(&[begun_with(5 + room)]).err(), Some((1, true)), "numbers that were never given");
    }

    #[test]
    fn an_offset_that_ends_no_batch_is_no_clean_close_but_evidence() {
        let mut batch = File::new(1).frames(FRAMES_AT, 1..2, None);
        plant(&mut batch.bytes[FRAMES_AT..], place(1), 15, 2, None, false);
        assert_eq!(close(&batch, place(2), &[]), None);
        let damage = judge_files(&batch, place(2), &[]).unwrap_err();
        assert_eq!((damage.segment, damage.offset, damage.durable), (0, place(1), place(2)));
        let whole = batch.frames(place(2), 3..4, None);
        assert!(close(&whole, place(3), &[]).is_some());

        // In a frame: below the cut all is well.
        for (file, clean, cut) in [(&whole, place(2) + 8, place(3)), (&three(), place(1) + 8, place(3))] {
            assert_eq!(close(file, clean, &[]), None);
            let judged = judge_files(&file.clone().byte(place(7)), clean, &[File::new(0).byte(PAGE)]).unwrap();
            assert_eq!((judged.walk.cut, judged.durable, judged.active_durable), (cut, clean, clean));
            assert_eq!(judged.tail, Tail::Torn, "the rest is looked at");
        }
    }

    #[test]
    fn an_offset_that_is_no_position_is_no_clean_close() {
        for clean in
            [0, 8, PAGE, FRAMES_AT - 8, FRAMES_AT + 1, place(3) + 4, MIN_CAPACITY, MIN_CAPACITY + 8, usize::MAX]
        {
            assert_eq!(close(&three(), clean, &[]), None, "{clean}");
        }
        let entry = three().entry;
        assert_eq!(closed_at(&three().bytes[FRAMES_AT..place(3) - 8], &entry, place(3) as u64), None, "too few bytes");
        assert_eq!(closed_at(&[], &entry, u64::MAX), None);
        assert!(closed_at(&[], &entry, FRAMES_AT as u64).is_some());
    }

    #[test]
    fn one_byte_anywhere_but_in_page_0_makes_a_spare_used() {
        let used = |at| is_used(&File::new(0).byte(at).unsealed());
        for at in [PAGE, FRAMES_AT - 1, FRAMES_AT, MIN_CAPACITY - 1] {
            assert!(used(at), "{at}");
        }
        assert!(!used(PAGE - 1) && !is_used(&File::new(0).unsealed()));
    }

    #[test]
    fn a_frame_anywhere_makes_a_recycled_spare_used_however_far_away_its_number_is() {
        for (i, seq) in [(0, 1), (0, 1 << 20), (1, 2), (2, 6), (70, 1 << 20), (101, u64::MAX >> 2)] {
            let spare = File::new(0).frames(place(i), seq..seq + 1, None).recycled();
            assert!(is_used(&spare.unsealed()), "{seq} at {i}");
        }
        assert!(is_used(&File::new(0).recycled().byte(PAGE).unsealed()));
    }

    #[test]
    fn the_earlier_life_of_a_recycled_spare_does_not_make_it_used() {
        let noise = File::new(0).byte(FRAMES_AT);
        let salted = |mut file: File| {
            file.entry.salt ^= 1;
            file
        };
        for spare in [noise, salted(File::new(0).frames(FRAMES_AT, 1..90, Some(FRAMES_AT))), File::new(0)] {
            assert!(!is_used(&spare.recycled().unsealed()));
        }
    }

    #[test]
    fn what_was_durable_and_is_lost_is_damage() {
        let lost = |file: File, clean| {
            let damage = judge_files(&file, clean, &[]).unwrap_err();
            assert_eq!((damage.segment, damage.offset, damage.expected_seq), (0, place(1), 2));
            damage.durable
        };
        assert_eq!(lost(three().byte(place(1)).word(DURABLE_AT[0], place(2) as u64), 0), place(2));
        assert_eq!(lost(three().byte(place(1)), place(3)), place(3));
        let witness = three().frames(place(3), 4..5, Some(place(3)));
        assert_eq!(lost(witness.byte(place(1)), 0), place(3));
        assert_eq!(judge_files(&three(), usize::MAX, &[]).unwrap_err().durable, usize::MAX);
    }

    #[test]
    fn a_spare_that_follows_is_judged() {
        let k = begun_with(4).frames(FRAMES_AT, 4..6, None);
        let n = three().word(DURABLE_AT[0], place(2) as u64);
        let judged = judge_files(&n, 0, &[File::new(0), k, File::new(0).byte(PAGE)]).unwrap();
        assert_eq!((judged.judged, judged.completed, judged.base_seq), (2, Some((place(3), 3)), 4));
        assert_eq!((judged.walk.cut, judged.walk.next_seq, judged.tail), (place(2), 6, Tail::Clean));
        assert_eq!((judged.durable, judged.active_durable), (FRAMES_AT, place(2)));
    }

    #[test]
    fn a_claim_in_the_spare_makes_all_of_the_active_one_durable() {
        let k = File::new(0).frames(FRAMES_AT, 4..5, None).frames(place(1), 5..6, Some(FRAMES_AT));
        let judged = judge_files(&three(), 0, &[k]).unwrap();
        assert_eq!((judged.judged, judged.base_seq, judged.walk.next_seq), (1, 4, 6), "its first frame is its base");
        assert_eq!(judged.active_durable, place(3));
        let lost = begun_with(4).frames(place(1), 5..6, Some(place(1)));
        let damage = judge_files(&three(), 0, &[lost]).unwrap_err();
        assert_eq!((damage.segment, damage.offset, damage.expected_seq), (1, FRAMES_AT, 4));
    }

    /// What stands between is as many records as there is room for in the active segment behind its end.
    #[test]
    fn a_spare_claims_for_as_many_records_as_fit() {
        let most = ((MIN_CAPACITY - place(1)) / frame::HEADER) as u64;
        // Of the active segment only record 1 is left, so the spare begins with number 2 + `skipped`.
        for (skipped, counts) in [(1, true), (most - 1, true), (most, true), (most + 1, false)] {
            let seq = 2 + skipped;
            let spare = begun_with(seq).frames(FRAMES_AT, seq..seq + 1, Some(FRAMES_AT));
            let judged = judge_files(&three().byte(place(1)), 0, &[spare]);
            match judged {
                Err(damage) if counts => assert_eq!((damage.segment, damage.offset), (0, place(1)), "{skipped}"),
                // No crash leaves that: the manifest is older than the segments.
                Err(damage) => assert_eq!((damage.segment, damage.offset, damage.is_stale), (1, FRAMES_AT, true)),
                other => panic!("{skipped}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_spare_that_is_not_begun_is_damaged_only_by_a_claim_of_its_own_bytes() {
        let judged = judge_files(&three(), 0, &[File::new(0).frames(place(2), 6..7, Some(FRAMES_AT))]).unwrap();
        assert_eq!((judged.judged, judged.walk.cut), (0, place(3)));
        for lost in
            [File::new(0).frames(place(2), 6..7, Some(place(1))), File::new(0).word(DURABLE_AT[1], place(1) as u64)]
        {
            let damage = judge_files(&three(), 0, &[lost]).unwrap_err();
            assert_eq!((damage.segment, damage.offset, damage.durable), (1, FRAMES_AT, place(1)));
        }
    }

    #[test]
    fn a_spare_that_begins_too_early_is_damaged() {
        let damage = judge_files(&three(), 0, &[begun_with(3)]).unwrap_err();
        assert_eq!((damage.segment, damage.offset, damage.expected_seq), (1, FRAMES_AT, 4));
    }

    #[test]
    fn a_spare_that_begins_later_damages_the_active_one_only_if_it_claims() {
        let judged = judge_files(&three(), 0, &[begun_with(9)]).unwrap();
        assert_eq!((judged.judged, judged.walk.cut), (0, place(3)));
        let damage = judge_files(&three(), 0, &[begun_with(9).frames(FRAMES_AT, 9..10, Some(FRAMES_AT))]).unwrap_err();
        assert_eq!((damage.segment, damage.offset, damage.expected_seq), (0, place(3), 4));
    }

    #[test]
    fn two_spares_that_show_something_are_damage_in_the_second() {
        let damage = judge_files(&three(), 0, &[begun_with(4), File::new(0), begun_with(4)]).unwrap_err();
        assert_eq!((damage.segment, damage.offset), (3, FRAMES_AT));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_judgement_panic(
            flips in prop::collection::vec((0..2_usize, 4096..9000_usize, any::<u8>()), 0..8),
            words in prop::collection::vec((0..2_usize, 0..4_usize, prop_oneof![any::<u64>(), 0..10_u64, 8000..9000_u64]), 0..4),
            base: u64, clean: usize, lens in (0..MIN_CAPACITY, 0..MIN_CAPACITY, any::<bool>()),
        ) {
            let mut files = [three(), begun_with(4).frames(FRAMES_AT, 4..6, Some(FRAMES_AT))];
            for (file, word, value) in words {
                let at = [BEGUN_AT, DURABLE_AT].concat()[word];
                put(&mut files[file].bytes, at, &value.to_le_bytes());
                put(&mut files[file].bytes, at + 8, &check(SALT, value).to_le_bytes());
            }
            for (file, at, value) in flips {
                files[file].bytes[at] ^= value;
            }
            if lens.2 {
                files[0].bytes.truncate(lens.0);
                files[1].bytes.truncate(lens.1);
            }
            let [active, spare] = files;
            let _ = closed_at(active.bytes.get(FRAMES_AT..).unwrap_or_default(), &active.entry, clean as u64);
            for clean in [clean, place(clean % 4), FRAMES_AT] {
                let _ = judge_files(&active, clean, core::slice::from_ref(&spare));
            }
            let _ = judge_files(&active, 0, &[File { bytes: Vec::new(), ..File::new(0) }]);
            for file in [&active, &spare] {
                is_used(&file.unsealed());
                is_used(&file.clone().recycled().unsealed());
            }
            let _ = judge_files(&File { entry: Entry { base_seq: base, ..active.entry }, ..active }, 0, &[]);
        }
    }
}
