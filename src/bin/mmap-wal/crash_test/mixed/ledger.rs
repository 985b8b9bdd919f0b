//! What the parent holds the log to: everything that a mixed writer was heard to promise.

use std::collections::BTreeMap;
use std::fmt;

use crate::crash_test::mixed::gaps::Gaps;
use crate::crash_test::mixed::line::Line;
use crate::crash_test::mixed::unit::{MOST_RECORDS, Name, Source, Unit};

/// A record of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: Name,
    pub(crate) at: usize,
    pub(crate) count: usize,
}

/// Where a log begins and ends, as something sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) checkpoint: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, checkpoint } = self;
        write!(f, "the records from {first} to {last} and the checkpoint {checkpoint}")
    }
}

/// A change at the back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Back(u64),
    Reset(u64),
}

/// What was promised.
pub(crate) struct Ledger {
    pub(crate) source: Source,
    /// Which records must be there.
    records: BTreeMap<u64, Part>,
    /// Which ones were there and are truncated, if they may come back with a manifest that is made anew.
    truncated: Option<BTreeMap<u64, Part>>,
    /// Units that were under way when a writer was killed: of these, too, some may have been truncated.
    put_away: Vec<Name>,
    /// Below this number a repair may have brought records back.
    back_below: u64,
    /// Which numbers a repair has left without a record.
    gaps: Gaps,
    /// Whether the log was ever shown.
    exists: bool,
    /// The log is this, or what it becomes by the changes that are under way.
    seen: Seen,
    round: u32,
    /// Whether no writer has begun since all that was under way was settled.
    is_idle: bool,
    /// The next unit of each thread.
    next: Vec<u64>,
    /// What was begun, and not said to be done.
    checkpoint: Option<u64>,
    front: Option<u64>,
    cut: Option<Cut>,
    /// Segments that were rotated to and whose forerunner is not said to be sealed.
    unsealed: bool,
    /// Records that were acknowledged in this round, and others that were there after it.
    acknowledged: u64,
    adopted: u64,
}

impl Ledger {
    /// Of a log that is not there yet.
    pub(crate) fn new(source: Source, threads: u32) -> Self {
        Self {
            source,
            records: BTreeMap::new(),
            truncated: None,
            put_away: Vec::new(),
            back_below: 0,
            gaps: Gaps::default(),
            exists: false,
            seen: Seen { first: 1, last: 0, checkpoint: 0 },
            round: 0,
            is_idle: true,
            next: vec![0; threads as usize],
            checkpoint: None,
            front: None,
            cut: None,
            unsealed: false,
            acknowledged: 0,
            adopted: 0,
        }
    }

    /// What is truncated is remembered.
    pub(crate) fn remembering(self) -> Self {
        Self { truncated: Some(BTreeMap::new()), ..self }
    }

    /// Another writer begins. The one before was killed, and what it left was settled.
    pub(crate) fn begin(&mut self, round: u32) {
        self.put_away();
        (self.round, self.is_idle) = (round, false);
        self.next.fill(0);
        (self.unsealed, self.acknowledged, self.adopted) = (false, 0, 0);
    }

    /// The writer is gone, and what it had under way may be among what is truncated.
    fn put_away(&mut self) {
        if !self.is_idle && self.truncated.is_some() {
            let names = self.names_under_way();
            self.put_away.extend(names);
        }
        self.is_idle = true;
    }

    /// Whether the log was ever shown.
    pub(crate) fn exists(&self) -> bool {
        self.exists
    }

    /// Where the log begins and ends; more may be behind the end if a writer was killed since.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    /// How many records were acknowledged in this round.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many records of this round are there that were not acknowledged.
    pub(crate) fn adopted(&self) -> u64 {
        self.adopted
    }

    /// Whether a checkpoint or a truncation of the front is under way.
    pub(crate) fn is_truncating(&self) -> bool {
        self.checkpoint.is_some() || self.front.is_some()
    }

    /// Whether a cut or a reset is under way.
    pub(crate) fn is_cutting(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether a segment that was rotated away is not sealed.
    pub(crate) fn is_rotating(&self) -> bool {
        self.unsealed
    }

    /// The records that must be there, by their numbers.
    pub(crate) fn records(&self) -> &BTreeMap<u64, Part> {
        &self.records
    }

    /// The numbers that a repair has left without a record.
    pub(crate) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// A repair makes the log what `seen` says and leaves the records `lost` out. Whatever else is there must be what it
    /// was; if the log begins further in front, what was truncated is back. Nobody appends meanwhile.
    pub(crate) fn repair(&mut self, seen: Seen, lost: &[(u64, u64)]) {
        self.put_away();
        self.back_below = self.seen.first;
        let back = self.truncated.as_mut().map(|truncated| truncated.split_off(&seen.first));
        self.records.extend(back.into_iter().flatten());
        self.records = self.records.split_off(&seen.first);
        for (first, last) in lost {
            self.records.retain(|seq, _| !(first..=last).contains(&seq));
            self.gaps.add(*first, *last);
        }
        (self.seen, self.is_idle) = (seen, true);
    }

    /// Takes note of a line; the error says which promise it breaks.
    pub(crate) fn hear(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Opened { first, last, checkpoint } => return self.opened(Seen { first, last, checkpoint }),
            Line::Acked { seq, thread, counter } => return self.acked(seq, thread, counter),
            Line::Checkpoint(seq) => self.checkpoint = Some(seq),
            Line::CheckpointDone(seq) => {
                self.checkpoint = None;
                self.seen.checkpoint = self.seen.checkpoint.max(seq);
            }
            Line::Front(seq) => self.front = Some(seq),
            Line::FrontDone(seq) => {
                self.front = None;
                self.drop_front(seq);
            }
            Line::Back(after) => self.cut = Some(Cut::Back(after)),
            Line::BackDone(after) => {
                self.cut = None;
                if !self.ends_unit(after) {
                    return Err(format!("a cut behind record {after} was made, which is inside a batch"));
                }
                self.drop_back(after);
            }
            Line::BackRefused(after) => {
                self.cut = None;
                if self.ends_unit(after) {
                    return Err(format!("a cut behind record {after} was refused, which ends a batch"));
                }
            }
            Line::Reset(next_seq) => self.cut = Some(Cut::Reset(next_seq)),
            Line::ResetDone(next_seq) => {
                self.cut = None;
                self.drop_all(next_seq);
            }
            Line::Rotated(_) => self.unsealed = true,
            Line::Sealed(_) => self.unsealed = false,
            Line::Failed => return Err("a call of the writer failed, its sentence is above".to_owned()),
        }
        Ok(())
    }

    fn opened(&mut self, seen: Seen) -> Result<(), String> {
        self.exists = true;
        if seen == self.seen { Ok(()) } else { Err(format!("the next open found {seen} and not {}", self.seen)) }
    }

    fn acked(&mut self, seq: u64, thread: u32, counter: u64) -> Result<(), String> {
        let name = Name { round: self.round, thread, counter };
        match self.next.get_mut(thread as usize) {
            Some(next) if *next == counter => *next += 1,
            _ => return Err(format!("{name} was acknowledged out of turn")),
        }
        let count = self.source.shape(name).count;
        self.acknowledged += count as u64;
        self.add(seq, name, 0, count)
    }

    /// The records `from..` of a unit of `count`, from the number `seq` on, are promised from now on, unless they were
    /// truncated meanwhile.
    fn add(&mut self, seq: u64, name: Name, from: usize, count: usize) -> Result<(), String> {
        for (seq, at) in (seq..).zip(from..count) {
            if self.gaps.hold(seq, seq) {
                return Err(format!("number {seq} was given to {name} and, before, to a record that is lost"));
            }
            self.seen.last = self.seen.last.max(seq);
            if seq < self.seen.first {
                self.truncated.as_mut().and_then(|truncated| truncated.insert(seq, Part { name, at, count }));
                continue;
            }
            if let Some(other) = self.records.insert(seq, Part { name, at, count }) {
                return Err(format!("number {seq} was given to {name} and, before, to {}", other.name));
            }
        }
        Ok(())
    }

    /// Whether `after` is the last record of its unit, or none is left up to it.
    fn ends_unit(&self, after: u64) -> bool {
        let ends = |part: &Part| part.at + 1 == part.count;
        after < self.seen.first || self.records.get(&after).is_some_and(ends)
    }

    /// The first record if those up to `up_to` are removed: a log does not begin with a gap by that.
    fn first_behind(&self, up_to: u64) -> u64 {
        self.gaps.behind(up_to + 1)
    }

    fn drop_front(&mut self, up_to: u64) {
        if up_to >= self.seen.first {
            self.seen.first = self.first_behind(up_to);
            // It was there, acknowledged or not, and its number is not given again.
            self.seen.last = self.seen.last.max(up_to);
            let rest = self.records.split_off(&self.seen.first);
            let gone = std::mem::replace(&mut self.records, rest);
            self.truncated.iter_mut().for_each(|truncated| truncated.extend(&gone));
        }
    }

    fn drop_back(&mut self, after: u64) {
        self.seen.last = after;
        self.seen.checkpoint = self.seen.checkpoint.min(after);
        self.records.split_off(&(after + 1));
    }

    fn drop_all(&mut self, next_seq: u64) {
        self.records.clear();
        (self.seen.first, self.seen.last) = (next_seq, next_seq - 1);
    }

    /// The writer is gone, and the log is as `seen`: decides of each change that was under way whether it was made, and
    /// refuses what is neither as before nor as after it.
    pub(crate) fn settle(&mut self, seen: Seen) -> Result<(), String> {
        self.exists = true;
        let is_unit_under_way = self.cut.is_none();
        match self.cut.take() {
            Some(Cut::Back(after)) if seen.last == after && self.ends_unit(after) => self.drop_back(after),
            Some(Cut::Reset(next_seq)) if seen.first == next_seq => self.drop_all(next_seq),
            _ => {}
        }
        match self.front.take() {
            Some(up_to) if seen.first == self.first_behind(up_to) => self.drop_front(up_to),
            _ => {}
        }
        match self.checkpoint.take() {
            Some(checkpoint) if seen.checkpoint == checkpoint => {
                self.seen.checkpoint = self.seen.checkpoint.max(checkpoint);
            }
            _ => {}
        }
        let Seen { first, last, checkpoint } = self.seen;
        if seen.first != first {
            return Err(format!("record {} is the first, and {first} should be", seen.first));
        }
        if seen.checkpoint != checkpoint {
            return Err(format!("the checkpoint is {}, and {checkpoint} was set", seen.checkpoint));
        }
        if seen.last < last {
            let (record, lost) = (seen.last + 1, last - seen.last);
            let whose = self.records.get(&record).map_or("shown before".to_owned(), |part| part.name.to_string());
            return Err(format!("{lost} records are lost, from {record} ({whose}) to {last}"));
        }
        // A cut waits until every unit is acknowledged, and lets none begin.
        if seen.last > last && !is_unit_under_way {
            return Err(format!("record {} is there, and {last} was the last when a cut began", seen.last));
        }
        Ok(())
    }

    /// The units that may be there though they were not acknowledged: the next one of each thread; after a repair those
    /// that were truncated before they could be acknowledged.
    pub(crate) fn under_way(&self) -> Vec<(Name, Unit)> {
        let names = if self.is_idle { self.put_away.clone() } else { self.names_under_way() };
        names.into_iter().map(|name| (name, self.source.unit(name))).collect()
    }

    fn names_under_way(&self) -> Vec<Name> {
        let name = |(counter, thread): (&u64, u32)| Name { round: self.round, thread, counter: *counter };
        self.next.iter().zip(0..).map(name).collect()
    }

    /// How many records may be there at most though they were not acknowledged.
    pub(crate) fn most_new(&self) -> usize {
        MOST_RECORDS * if self.is_idle { self.put_away.len().max(1) } else { self.next.len() }
    }

    /// Whether the record `seq` may be there though it was not acknowledged.
    pub(crate) fn may_be_new(&self, seq: u64) -> bool {
        !self.is_idle || seq < self.back_below
    }

    /// A unit that was not acknowledged was seen, as far as it was not truncated, and what was seen stays.
    pub(crate) fn adopt(&mut self, seq: u64, name: Name, from: usize, count: usize) -> Result<(), String> {
        self.adopted += (count - from) as u64;
        // What was truncated of it comes with it.
        self.add(seq.saturating_sub(from as u64), name, 0, count)
    }
}
