//! What several threads asked of a log and were told, and what a crash may therefore show: the model of concurrent
//! histories.
//!
//! Every call has a beginning and an end on one clock. What takes records away is asked by one thread alone, so that of
//! each cut and every other call it is known which came first, or that nobody can know.

use std::collections::BTreeMap;

use super::model::{Crash, Record, Shown};
use super::rng::Digest;

pub type Time = u64;

/// An append of one record, or of several as one batch.
#[derive(Clone, Debug)]
pub struct Append {
    pub records: Vec<Record>,
    pub began: Time,
    /// The first number, once it was told.
    pub first: Option<u64>,
    /// When it was told that the records are published, and that they are durable.
    pub published: Option<Time>,
    pub durable: Option<Time>,
    /// When it was told that there is no space.
    pub refused: Option<Time>,
}

/// A call that takes records away: those above `after`, or all before it goes on at `after + 1`.
#[derive(Clone, Copy, Debug)]
struct Cut {
    after: u64,
    is_reset: bool,
    began: Time,
    returned: Option<Time>,
}

/// The log called everything up to `seq` durable.
#[derive(Clone, Copy, Debug)]
struct Promise {
    seq: u64,
    began: Time,
    returned: Time,
}

/// What the manifest says beside the segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    pub first: u64,
    pub checkpoint: u64,
    pub meta: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Change {
    marks: Marks,
    began: Time,
    returned: Option<Time>,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    now: Time,
    appends: Vec<Append>,
    cuts: Vec<Cut>,
    promises: Vec<Promise>,
    changes: Vec<Change>,
    /// Which append has this payload, and at which place.
    owners: BTreeMap<Vec<u8>, (usize, usize)>,
}

/// The number of an entry.
pub type Entry = usize;

impl Cut {
    /// Whether it takes `seq` away, if that is the number of a record that it finds.
    fn takes(&self, seq: u64) -> bool {
        self.is_reset || seq > self.after
    }

    fn has_begun(&self, at: Time) -> bool {
        self.began <= at
    }
}

impl Ledger {
    fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// These are about to be appended, as one batch.
    pub fn append(&mut self, records: Vec<Record>) -> Entry {
        let entry = self.appends.len();
        for (place, record) in records.iter().enumerate() {
            let before = self.owners.insert(record.payload.clone(), (entry, place));
            assert!(before.is_none(), "payloads are numbered");
        }
        let began = self.tick();
        self.appends.push(Append { records, began, first: None, published: None, durable: None, refused: None });
        entry
    }

    pub fn published(&mut self, entry: Entry, first: u64) {
        let now = self.tick();
        let append = &mut self.appends[entry];
        (append.first, append.published) = (Some(first), Some(now));
    }

    pub fn durable(&mut self, entry: Entry) {
        let now = self.tick();
        self.appends[entry].durable = Some(now);
    }

    /// It was told that there is no space: nothing has happened.
    pub fn refused_append(&mut self, entry: Entry) {
        let now = self.tick();
        self.appends[entry].refused = Some(now);
    }

    /// The log, asked at `began`, calls everything up to `seq` durable.
    pub fn promised(&mut self, seq: u64, began: Time) {
        let returned = self.tick();
        self.promises.push(Promise { seq, began, returned });
    }

    pub fn begin(&mut self) -> Time {
        self.tick()
    }

    /// What was said last.
    pub fn marks(&self) -> Marks {
        let nothing = Marks { first: 1, checkpoint: 0, meta: Vec::new() };
        self.changes.last().map_or(nothing, |change| change.marks.clone())
    }

    /// The marks are about to change, and if `cut` is there, records are about to be taken away.
    pub fn change(&mut self, marks: Marks, cut: Option<(u64, bool)>) {
        let began = self.tick();
        self.changes.push(Change { marks, began, returned: None });
        self.cuts.extend(cut.map(|(after, is_reset)| Cut { after, is_reset, began, returned: None }));
    }

    /// What was asked for last is done.
    pub fn changed(&mut self, was_cut: bool) {
        let now = self.tick();
        self.changes.last_mut().expect("a change").returned = Some(now);
        if was_cut {
            self.cuts.last_mut().expect("a cut").returned = Some(now);
        }
    }

    /// The cut that was asked for last was refused, and nothing is changed.
    pub fn refused(&mut self) {
        self.tick();
        self.changes.pop();
        self.cuts.pop();
    }

    /// Whether a call that began at `began` and was told of `seq` may have been undone by what had begun at `at`.
    fn may_be_cut(&self, seq: u64, began: Time, at: Time) -> bool {
        let undoes = |cut: &Cut| cut.takes(seq) && cut.returned.is_none_or(|returned| began < returned);
        self.cuts.iter().filter(|cut| cut.has_begun(at)).any(undoes)
    }

    /// Whether what was told at `told` to be record `seq` was taken away for certain at `at`.
    fn is_cut(&self, seq: u64, told: Time, at: Time) -> bool {
        let undid = |cut: &Cut| cut.takes(seq) && told < cut.began && cut.returned.is_some_and(|done| done <= at);
        self.cuts.iter().any(undid)
    }

    /// Up to where the log must reach after a crash at `at`.
    fn floor(&self, at: Time, crash: Crash) -> u64 {
        let of_appends = self.kept(at, crash).map(|append| append.last());
        let holds = |promise: &&Promise| promise.returned <= at && !self.may_be_cut(promise.seq, promise.began, at);
        let of_promises = self.promises.iter().filter(holds).map(|promise| promise.seq);
        of_appends.chain(of_promises).max().unwrap_or(0)
    }

    /// The appends whose records must survive a crash at `at`.
    fn kept(&self, at: Time, crash: Crash) -> impl Iterator<Item = &Append> {
        self.appends.iter().filter(move |append| {
            let told = if crash == Crash::Power { append.durable } else { append.published };
            told.is_some_and(|told| told <= at) && !self.may_be_cut(append.last(), append.began, at)
        })
    }

    /// Holds what an open showed after a crash at `at` against what it may show.
    pub fn check(&self, shown: &Shown, at: Time, crash: Crash) -> Result<(), String> {
        if !shown.records.iter().map(|(seq, _)| *seq).eq(shown.first..=shown.last) {
            let seqs: Vec<u64> = shown.records.iter().map(|(seq, _)| *seq).collect();
            return Err(format!("the log is {} to {}, and replay shows {seqs:?}", shown.first, shown.last));
        }
        if shown.durable != shown.last {
            return Err(format!("the log ends at {} and calls only {} durable", shown.last, shown.durable));
        }
        self.check_marks(shown, at)?;
        for (index, (seq, record)) in shown.records.iter().enumerate() {
            let next = shown.records.get(index + 1).map(|(_, record)| record);
            self.check_record(*seq, record, next, at)?;
        }
        self.check_kept(shown, at, crash)
    }

    fn check_marks(&self, shown: &Shown, at: Time) -> Result<(), String> {
        let found = Marks { first: shown.first, checkpoint: shown.checkpoint, meta: shown.meta.clone() };
        let may_be = self.possible_marks(at);
        if may_be.contains(&found) { Ok(()) } else { Err(format!("{found:?} is none of {may_be:?}")) }
    }

    /// What was said last at `at`, and what was being said.
    fn possible_marks(&self, at: Time) -> Vec<Marks> {
        let mut possible = vec![Marks { first: 1, checkpoint: 0, meta: Vec::new() }];
        for change in self.changes.iter().filter(|change| change.began <= at) {
            if change.returned.is_some_and(|returned| returned <= at) {
                possible.clear();
            }
            possible.push(change.marks.clone());
        }
        possible
    }

    fn check_record(&self, seq: u64, record: &Record, next: Option<&Record>, at: Time) -> Result<(), String> {
        let owner = self.owners.get(&record.payload).filter(|(entry, _)| self.appends[*entry].began <= at);
        let Some(&(entry, place)) = owner else {
            return Err(format!("record {seq} is {record:?}, which nobody had appended"));
        };
        let append = &self.appends[entry];
        if append.records[place] != *record {
            return Err(format!("record {seq} is {record:?}, not {:?}", append.records[place]));
        }
        if append.refused.is_some_and(|told| told <= at) {
            return Err(format!("record {seq} is {record:?}, for which there was no space"));
        }
        if append.first.is_some_and(|first| first + place as u64 != seq) {
            return Err(format!("record {seq} was given the number {:?} + {place}", append.first));
        }
        if append.published.is_some_and(|told| self.is_cut(seq, told, at)) {
            return Err(format!("record {seq}, {record:?}, was cut off and is back"));
        }
        // A truncation may have taken the front of a batch, but nothing takes its end.
        let is_followed = place + 1 == append.records.len() || next == Some(&append.records[place + 1]);
        if is_followed { Ok(()) } else { Err(format!("record {seq} is in the middle of a batch, which ends with it")) }
    }

    fn check_kept(&self, shown: &Shown, at: Time, crash: Crash) -> Result<(), String> {
        let floor = self.floor(at, crash);
        if shown.last < floor {
            return Err(format!("the log ends at {}, and {floor} was promised", shown.last));
        }
        for append in self.kept(at, crash) {
            let numbered = (append.first.unwrap_or(0)..).zip(&append.records);
            for (seq, record) in numbered.filter(|(seq, _)| *seq >= shown.first) {
                let found = shown.records.get((seq - shown.first) as usize).map(|(_, found)| found);
                if found != Some(record) {
                    return Err(format!("record {seq} is {found:?}, and {record:?} was promised"));
                }
            }
        }
        Ok(())
    }

    /// What a crash at `at` must and may leave, for telling states apart.
    pub fn digest(&self, at: Time, crash: Crash) -> u64 {
        let mut digest = Digest::new();
        digest.word(u64::from(crash == Crash::Power));
        digest.word(self.floor(at, crash));
        for marks in self.possible_marks(at) {
            digest.word(marks.first);
            digest.word(marks.checkpoint);
            digest.bytes(&marks.meta);
        }
        digest.value()
    }
}

impl Append {
    fn last(&self) -> u64 {
        self.first.map_or(0, |first| first + self.records.len() as u64 - 1)
    }
}
