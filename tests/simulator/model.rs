//! What a log must hold: a plain list of what was appended, and what was promised about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rng::Digest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub tag: u16,
    pub payload: Vec<u8>,
}

/// What an open log shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub first: u64,
    pub last: u64,
    pub durable: u64,
    pub checkpoint: u64,
    pub meta: Vec<u8>,
    pub records: Vec<(u64, Record)>,
}

/// What may be shown after a crash.
#[derive(Clone, Debug)]
pub struct Model {
    /// Whether there must be a log.
    pub created: bool,
    /// Everything that was appended and not cut, what is under way included.
    pub records: BTreeMap<u64, Arc<Record>>,
    /// First and last of every batch of more than one.
    pub batches: Vec<(u64, u64)>,
    /// The last seq that was promised to survive a power failure.
    pub durable: u64,
    /// The last seq of the calls that returned.
    pub published: u64,
    /// The last seq, what is under way included.
    pub ceiling: u64,
    /// The present value, and behind it the one that is under way.
    pub first: Vec<u64>,
    pub checkpoint: Vec<u64>,
    pub meta: Vec<Vec<u8>>,
    /// What the log is instead if what takes records away under way has come to pass.
    pub otherwise: Option<Arc<Model>>,
    /// Payloads are numbered, so that no two are the same.
    pub next_id: u64,
}

/// What a crash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// What was not synced.
    Power,
    /// Nothing but the process.
    Process,
}

impl Model {
    pub fn new() -> Self {
        Self {
            created: false,
            records: BTreeMap::new(),
            batches: Vec::new(),
            durable: 0,
            published: 0,
            ceiling: 0,
            first: vec![1],
            checkpoint: vec![0],
            meta: vec![Vec::new()],
            otherwise: None,
            next_id: 1,
        }
    }

    /// These records are being appended, as one batch.
    pub fn append(&mut self, records: Vec<Record>) {
        let first = self.published + 1;
        for record in records {
            self.ceiling += 1;
            self.records.insert(self.ceiling, Arc::new(record));
        }
        if self.ceiling > first {
            self.batches.push((first, self.ceiling));
        }
    }

    /// What is above `after` is being cut off.
    pub fn cut(&mut self, after: u64) {
        let mut cut = self.clone();
        cut.records.split_off(&(after + 1));
        cut.batches.retain(|(_, to)| *to <= after);
        (cut.durable, cut.published, cut.ceiling) = (after, after, after);
        cut.checkpoint.iter_mut().for_each(|checkpoint| *checkpoint = after.min(*checkpoint));
        self.otherwise = Some(Arc::new(cut));
    }

    /// Everything is being dropped, to go on at `next`.
    pub fn reset(&mut self, next: u64) {
        let mut empty = self.clone();
        (empty.records, empty.batches) = (BTreeMap::new(), Vec::new());
        (empty.durable, empty.published, empty.ceiling) = (next - 1, next - 1, next - 1);
        empty.first = vec![next];
        self.otherwise = Some(Arc::new(empty));
    }

    /// Whether the log may not end with `after`, because a batch would lose its end.
    pub fn is_inside_batch(&self, after: u64) -> bool {
        let is_split = self.batches.iter().any(|(from, to)| (*from..*to).contains(&after));
        is_split && !self.first.contains(&(after + 1))
    }

    /// What was under way has returned.
    pub fn returned(&mut self) {
        if let Some(otherwise) = self.otherwise.take() {
            *self = (*otherwise).clone();
        }
        self.published = self.ceiling;
        keep_last(&mut self.first);
        keep_last(&mut self.checkpoint);
        keep_last(&mut self.meta);
    }

    /// What was under way was refused: nothing has happened.
    pub fn refused(&mut self) {
        self.otherwise = None;
        self.records.split_off(&(self.published + 1));
        self.batches.retain(|(_, to)| *to <= self.published);
        self.ceiling = self.published;
        self.first.truncate(1);
        self.checkpoint.truncate(1);
        self.meta.truncate(1);
    }

    /// What was only published is no longer promised to anybody.
    pub fn lose_power(&mut self) {
        self.published = self.durable;
    }

    /// It was promised that everything up to `seq` is durable.
    pub fn promised(&mut self, seq: u64) {
        self.durable = self.durable.max(seq);
    }

    /// Holds what an open showed against what it may show.
    pub fn check(&self, shown: &Shown, crash: Crash) -> Result<(), String> {
        let as_before = self.check_this(shown, crash);
        match &self.otherwise {
            Some(otherwise) if as_before.is_err() => {
                otherwise.check_this(shown, crash).map_err(|after| format!("{as_before:?}, and {after}"))
            }
            _ => as_before,
        }
    }

    fn check_this(&self, shown: &Shown, crash: Crash) -> Result<(), String> {
        let Shown { first, last, durable, checkpoint, meta, records } = shown;
        let floor = if crash == Crash::Power { self.durable } else { self.published };
        if *last < floor {
            return Err(format!("the log ends at {last}, and {floor} was promised"));
        }
        if *last > self.ceiling {
            return Err(format!("the log ends at {last}, and nothing above {} was appended", self.ceiling));
        }
        if durable != last {
            return Err(format!("the log ends at {last} and calls only {durable} durable"));
        }
        if let Some((from, to)) = self.batches.iter().find(|(from, to)| from <= last && last < to) {
            return Err(format!("the log ends at {last}, within the batch {from} to {to}"));
        }
        if !self.first.contains(first) {
            return Err(format!("the log begins at {first}, which is none of {:?}", self.first));
        }
        if !self.checkpoint.contains(checkpoint) {
            return Err(format!("the checkpoint is {checkpoint}, which is none of {:?}", self.checkpoint));
        }
        if !self.meta.contains(meta) {
            return Err(format!("the meta is {meta:?}, which is none of {:?}", self.meta));
        }
        self.check_records(*first, *last, records)
    }

    fn check_records(&self, first: u64, last: u64, records: &[(u64, Record)]) -> Result<(), String> {
        if !records.iter().map(|(seq, _)| *seq).eq(first..=last) {
            let seqs: Vec<u64> = records.iter().map(|(seq, _)| *seq).collect();
            return Err(format!("the log is {first} to {last}, and replay shows {seqs:?}"));
        }
        for (seq, record) in records {
            let expected = self.records.get(seq);
            if expected.map(|expected| &**expected) != Some(record) {
                return Err(format!("record {seq} is {record:?}, and {expected:?} was appended"));
            }
        }
        Ok(())
    }

    /// An open returned and showed this: it is durable, and what it did not show must never come back.
    pub fn opened(&mut self, shown: &Shown) {
        self.created = true;
        self.otherwise = None;
        self.records.split_off(&(shown.last + 1));
        self.batches.retain(|(_, to)| *to <= shown.last);
        (self.durable, self.published, self.ceiling) = (shown.last, shown.last, shown.last);
        self.first = vec![shown.first];
        self.checkpoint = vec![shown.checkpoint];
        self.meta = vec![shown.meta.clone()];
    }

    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        for word in [u64::from(self.created), self.durable, self.published, self.ceiling, self.next_id] {
            digest.word(word);
        }
        self.first.iter().chain(&self.checkpoint).for_each(|word| digest.word(*word));
        self.meta.iter().for_each(|meta| digest.bytes(meta));
        self.records.iter().for_each(|(seq, record)| {
            digest.word(*seq);
            digest.bytes(&record.payload);
        });
        self.otherwise.iter().for_each(|otherwise| digest.word(otherwise.digest()));
        digest.value()
    }
}

fn keep_last<T>(values: &mut Vec<T>) {
    values.drain(..values.len() - 1);
}
