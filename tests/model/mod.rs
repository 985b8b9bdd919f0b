//! A log in three lines of memory, and an executor that does the same to it and to a real one and compares.
//!
//! Needs `crate::fixture` and `crate::reference` beside it; whoever has those can share it.
#![allow(dead_code, missing_docs)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use mmap_wal::{Background, Error, Options, Positions, Reader, Snapshot, SyncMode, TailState, Wal};

use crate::fixture::{Seeded, all, files_of, rec, scratch, write_files};
use crate::reference::{Files, Parsed, Rec, Tail, Verdict, parse, parse_dir};

/// What is done to a log. Numbers are taken modulo what makes sense, so that any value is an operation.
#[derive(Clone, Debug)]
pub enum Op {
    Append(u32),
    AppendBatch(Vec<u32>),
    AppendWith {
        max: u32,
        len: u32,
        fails: bool,
    },
    AppendVectored(Vec<u16>),
    AppendTagged {
        tag: u16,
        len: u32,
    },
    /// More than any segment holds.
    AppendOversized,
    TryAppend(u32),
    /// Publish, and wait for it or not.
    Submit {
        lens: Vec<u32>,
        wait: bool,
    },
    Sync,
    SyncTo(u16),
    Maintain,
    Checkpoint(u16),
    TruncateFront(u16),
    TruncateBack(u16),
    /// Go on so far behind the last record.
    Reset(u16),
    SetMeta(u16),
    Get(u16),
    Replay(u16),
    /// Keep a snapshot, and look at it again at the end of the history.
    Keep {
        durable: bool,
    },
    CheckKept,
    /// Let the snapshots go, so that files can be used again.
    Forget,
    /// Another handle reads.
    Read,
    /// Close, and open again.
    Reopen(Setup),
    /// Go on with a copy of the files as they are now: what a killed process leaves.
    Kill(Setup),
}

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Setup {
    /// 0 syncs each record, 255 none, others are the records of a batch.
    pub mode: u8,
    /// Pages of frames in a segment, in addition to the smallest.
    pub pages: u8,
    pub spares: u8,
    pub strict: bool,
}

/// The longest record.
const LONGEST: u32 = 40_000;

impl Setup {
    fn options(&self) -> Options {
        let mode = match self.mode {
            0 => SyncMode::Sync,
            255 => SyncMode::None,
            records => SyncMode::batch(u32::from(records)),
        };
        let size = crate::fixture::SMALLEST + u64::from(self.pages % 8) * 4096;
        let spares = usize::from(self.spares % 3) + 1;
        Options::new()
            .background(Background::Caller)
            .sync_mode(mode)
            .segment_size(size)
            .spare_segments(spares)
            .strict(self.strict)
    }
}

/// A record that was appended.
#[derive(Clone, Copy)]
struct Noted {
    len: u32,
    tag: u16,
    /// How often a cut had given numbers again before: the same number then stands for other bytes.
    life: u32,
    /// Whether it is the last of its batch.
    ends: bool,
}

/// What the log should be.
#[derive(Clone)]
struct Model {
    /// What was appended since the log began or was reset, truncated records included.
    noted: VecDeque<Noted>,
    /// The number of the first of them.
    base: u64,
    first: u64,
    checkpoint: u64,
    /// At least so much is durable.
    durable: u64,
    meta: Vec<u8>,
    life: u32,
    /// Every record that was cut off again, as it was.
    cut: Vec<Rec>,
}

impl Model {
    fn last(&self) -> u64 {
        self.base + self.noted.len() as u64 - 1
    }

    /// A number of the log, or one around it.
    fn pick(&self, number: u16) -> u64 {
        let low = self.base.saturating_sub(2);
        low + u64::from(number) % (self.last() + 3 - low)
    }

    fn shows(&self, seq: u64) -> bool {
        (self.first..=self.last()).contains(&seq)
    }

    fn noted(&self, seq: u64) -> Noted {
        self.noted[(seq - self.base) as usize]
    }

    fn record(&self, seq: u64) -> Rec {
        let Noted { len, tag, life, .. } = self.noted(seq);
        Rec { seq, tag, payload: payload(seq, life, len) }
    }

    fn records(&self, first: u64, last: u64) -> Vec<Rec> {
        (first..=last).map(|seq| self.record(seq)).collect()
    }

    /// The bytes that the next records get.
    fn drawn(&self, lens: &[u32]) -> Vec<Vec<u8>> {
        lens.iter().zip(self.last() + 1..).map(|(len, seq)| payload(seq, self.life, *len)).collect()
    }

    /// Notes a batch.
    fn note(&mut self, lens: &[u32], tag: u16) {
        for (at, len) in lens.iter().enumerate() {
            self.noted.push_back(Noted { len: *len, tag, life: self.life, ends: at + 1 == lens.len() });
        }
    }

    /// Cuts off what is above `after`, or everything if the log then begins at `next`.
    fn cut_off(&mut self, after: u64, next: Option<u64>) {
        self.cut.extend(self.records(next.map_or(after + 1, |_| self.base), self.last()));
        self.life += 1;
        match next {
            Some(next) => {
                self.noted.clear();
                (self.base, self.first) = (next, next);
            }
            None => self.noted.truncate((after + 1 - self.base) as usize),
        }
        self.durable = self.last();
        self.checkpoint = self.checkpoint.min(self.last());
    }
}

/// The bytes of record `seq` of that `life`, if it has `len` of them: no two records have the same.
fn payload(seq: u64, life: u32, len: u32) -> Vec<u8> {
    let mut word = (seq + (u64::from(life) << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while bytes.len() < len as usize {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// A snapshot, and what it must show for ever.
struct Kept {
    snapshot: Snapshot,
    first: u64,
    last: u64,
    /// What was noted then.
    model: Model,
}

/// A log that operations are done to, and what it should be.
pub struct Run {
    dir: tempfile::TempDir,
    /// In place of the system's random bits, so that a history can be repeated.
    random: Arc<Seeded>,
    wal: Wal,
    model: Model,
    kept: Vec<Kept>,
    /// Where the log was before: kept snapshots map their segments when they are first looked at.
    before: Vec<tempfile::TempDir>,
}

/// Does `ops` to a new log, and says where it differs from the model.
pub fn run(ops: &[Op]) -> Result<(), String> {
    let mut run = Run::new()?;
    for (i, op) in ops.iter().enumerate() {
        run.step(op).map_err(|e| format!("operation {i}, {op:?}: {e}"))?;
    }
    run.finish()
}

/// An error where none should be.
fn unexpected(e: Error) -> String {
    format!("an unexpected error: {e}")
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, should be {expected:?}")) }
}

fn same_records(what: &str, found: &[Rec], expected: &[Rec]) -> Result<(), String> {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    match at {
        None if found.len() == expected.len() => Ok(()),
        _ => Err(format!("{what}: {} records, should be {}, first difference {at:?}", found.len(), expected.len())),
    }
}

impl Run {
    /// A new log.
    pub fn new() -> Result<Self, String> {
        let (dir, random) = (scratch(), Arc::new(Seeded::default()));
        let setup = Setup { mode: 255, pages: 0, spares: 0, strict: false };
        let opened = setup.options().open_observed(dir.path(), Some(random.clone()));
        let model = Model {
            noted: VecDeque::new(),
            base: 1,
            first: 1,
            checkpoint: 0,
            durable: 0,
            meta: Vec::new(),
            life: 0,
            cut: Vec::new(),
        };
        Ok(Self {
            dir,
            random,
            wal: opened.map_err(|e| format!("a new log: {e}"))?,
            model,
            kept: Vec::new(),
            before: Vec::new(),
        })
    }

    /// Does one operation, and compares.
    pub fn step(&mut self, op: &Op) -> Result<(), String> {
        self.act(op).and_then(|()| self.check_positions())
    }

    /// Compares everything that is there in the end.
    pub fn finish(&self) -> Result<(), String> {
        self.check_all().and_then(|()| self.check_kept()).map_err(|e| format!("in the end: {e}"))
    }

    /// The files as a killed process would leave them now.
    pub fn files(&self) -> Files {
        files_of(self.dir.path())
    }

    /// The files as a clean close leaves them. Nothing can be done afterwards.
    pub fn close(&self) -> Result<Files, String> {
        self.wal.close().map_err(unexpected)?;
        Ok(self.files())
    }

    /// Every record that the log shows now.
    pub fn truth(&self) -> Vec<Rec> {
        self.model.records(self.model.first, self.model.last())
    }

    /// Every record that the log ever had: those that were truncated or cut off, too.
    pub fn ever(&self) -> Vec<Rec> {
        [self.model.cut.clone(), self.model.records(self.model.base, self.model.last())].concat()
    }

    fn act(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Append(len) => self.append(len % LONGEST, 0, Wal::append),
            Op::AppendTagged { tag, len } => {
                self.append(len % LONGEST, *tag, |wal, payload| wal.append_tagged(*tag, &[IoSlice::new(payload)]))
            }
            Op::AppendOversized => self.append_oversized(),
            Op::TryAppend(len) => self.try_append(len % LONGEST),
            Op::Submit { lens, wait } => self.submit(lens, *wait),
            Op::Maintain => self.wal.maintain().map_err(unexpected),
            Op::TruncateBack(number) => self.truncate_back(self.model.pick(*number)),
            Op::Reset(ahead) => self.reset(self.model.last() + u64::from(*ahead) % 1000),
            Op::Replay(number) => self.replay(self.model.pick(*number)),
            Op::Forget => {
                self.kept.clear();
                self.before.clear();
                Ok(())
            }
            Op::AppendBatch(lens) => self.append_batch(lens),
            Op::AppendWith { max, len, fails } => self.append_with(max % LONGEST, len % LONGEST, *fails),
            Op::AppendVectored(lens) => self.append_vectored(lens),
            Op::Sync => self.sync(),
            Op::SyncTo(number) => self.sync_to(self.model.pick(*number)),
            Op::Checkpoint(number) => self.checkpoint(self.model.pick(*number)),
            Op::TruncateFront(number) => self.truncate_front(self.model.pick(*number)),
            Op::SetMeta(len) => self.set_meta(*len),
            Op::Get(number) => self.get(self.model.pick(*number)),
            Op::Keep { durable } => self.keep(*durable),
            Op::CheckKept => self.check_kept(),
            Op::Read => self.read(),
            Op::Reopen(setup) => self.reopen(setup),
            Op::Kill(setup) => self.kill(setup),
        }
    }

    fn append(
        &mut self,
        len: u32,
        tag: u16,
        how: impl FnOnce(&Wal, &[u8]) -> Result<u64, Error>,
    ) -> Result<(), String> {
        let seq = self.model.last() + 1;
        let given = how(&self.wal, &self.model.drawn(&[len])[0]).map_err(unexpected)?;
        self.model.note(&[len], tag);
        same("its number", given, seq)
    }

    fn append_oversized(&self) -> Result<(), String> {
        match self.wal.append_with(usize::MAX, |_| Ok::<usize, ()>(0)) {
            Err(Error::RecordTooLarge { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// It would wait only where the next segment is not prepared.
    fn try_append(&mut self, len: u32) -> Result<(), String> {
        let seq = self.model.last() + 1;
        match self.wal.try_append(&self.model.drawn(&[len])[0]).map_err(unexpected)? {
            Some(given) => {
                self.model.note(&[len], 0);
                same("its number", given, seq)
            }
            None => Ok(()),
        }
    }

    fn submit(&mut self, lens: &[u32], wait: bool) -> Result<(), String> {
        let first = self.model.last() + 1;
        let lens: Vec<u32> = lens.iter().map(|len| len % LONGEST).collect();
        let pending = self.wal.submit_batch(&self.model.drawn(&lens)).map_err(unexpected)?;
        self.model.note(&lens, 0);
        if !wait || lens.is_empty() {
            return Ok(());
        }
        let seqs = pending.wait().map_err(unexpected)?;
        self.model.durable = self.model.last();
        same("their numbers", (seqs.first(), seqs.last()), (Some(first), Some(self.model.last())))
    }

    fn append_vectored(&mut self, lens: &[u16]) -> Result<(), String> {
        let lens: Vec<usize> = lens.iter().map(|len| usize::from(*len) % 3000).collect();
        self.append(lens.iter().sum::<usize>() as u32, 0, |wal, payload| {
            let mut rest = payload;
            let parts: Vec<_> = lens
                .iter()
                .map(|len| {
                    let (part, behind) = rest.split_at(*len);
                    rest = behind;
                    IoSlice::new(part)
                })
                .collect();
            wal.append_vectored(&parts)
        })
    }

    fn append_with(&mut self, max: u32, len: u32, fails: bool) -> Result<(), String> {
        let seq = self.model.last() + 1;
        let fill = self.model.drawn(&[len.min(max)]).remove(0);
        let done = self.wal.append_with(max as usize, |bytes| {
            let zeroed = bytes.len() == max as usize && bytes.iter().all(|byte| *byte == 0);
            bytes[..fill.len()].copy_from_slice(&fill);
            match (zeroed, fails) {
                (false, _) => Err("the bytes were not zero"),
                (true, true) => Err("no"),
                (true, false) => Ok(len as usize),
            }
        });
        match done {
            Ok(Ok(given)) if len <= max => {
                self.model.note(&[len], 0);
                same("its number", given, seq)
            }
            Ok(Err("no")) if fails => Ok(()),
            Err(Error::RecordTooLarge { .. }) if len > max && !fails => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn append_batch(&mut self, lens: &[u32]) -> Result<(), String> {
        let first = self.model.last() + 1;
        let lens: Vec<u32> = lens.iter().map(|len| len % LONGEST).collect();
        let seqs = self.wal.append_batch(&self.model.drawn(&lens)).map_err(unexpected)?;
        self.model.note(&lens, 0);
        if !lens.is_empty() {
            self.model.durable = self.model.last();
        }
        let expected: Vec<u64> = (first..first + lens.len() as u64).collect();
        same("their numbers", seqs.iter().collect(), expected)
    }

    fn sync(&mut self) -> Result<(), String> {
        self.model.durable = self.model.last();
        same("what was synced", self.wal.sync().map_err(unexpected)?, self.model.last())
    }

    fn sync_to(&mut self, seq: u64) -> Result<(), String> {
        self.in_range(seq, |wal| wal.sync_to(seq))?;
        if seq <= self.model.last() {
            self.model.durable = self.model.durable.max(seq);
        }
        Ok(())
    }

    fn checkpoint(&mut self, seq: u64) -> Result<(), String> {
        self.in_range(seq, |wal| wal.checkpoint(seq))?;
        if seq <= self.model.last() {
            self.model.checkpoint = self.model.checkpoint.max(seq);
            self.model.durable = self.model.durable.max(seq);
        }
        Ok(())
    }

    /// `call` works if `seq` is of the log, and says that it is not otherwise.
    fn in_range(&self, seq: u64, call: impl FnOnce(&Wal) -> Result<(), Error>) -> Result<(), String> {
        match call(&self.wal) {
            Ok(()) if seq <= self.model.last() => Ok(()),
            Err(Error::OutOfRange { .. }) if seq > self.model.last() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn truncate_front(&mut self, up_to: u64) -> Result<(), String> {
        self.wal.truncate_front(up_to).map_err(unexpected)?;
        let up_to = up_to.min(self.model.last());
        self.model.first = self.model.first.max(up_to + 1);
        self.model.durable = self.model.durable.max(up_to);
        Ok(())
    }

    fn truncate_back(&mut self, after: u64) -> Result<(), String> {
        let model = &mut self.model;
        let everything = after + 1 == model.first;
        let inside = |model: &Model| !model.noted(after).ends;
        match self.wal.truncate_back(after) {
            Err(Error::OutOfRange { .. }) if after > model.last() => Ok(()),
            Err(Error::Truncated { first_seq }) if after + 1 < model.first => same("the front", first_seq, model.first),
            Ok(()) if after == model.last() => {
                model.durable = model.durable.max(model.first - 1);
                Ok(())
            }
            Err(Error::InsideBatch { .. }) if model.shows(after) && inside(model) => Ok(()),
            Ok(()) if everything || model.shows(after) && !inside(model) => {
                model.cut_off(after, everything.then_some(after + 1));
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    }

    fn reset(&mut self, next: u64) -> Result<(), String> {
        match self.wal.reset(next) {
            Err(Error::OutOfRange { .. }) if next <= self.model.last() => Ok(()),
            Ok(()) if next > self.model.last() => {
                self.model.cut_off(0, Some(next));
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    }

    fn set_meta(&mut self, len: u16) -> Result<(), String> {
        let meta = payload(u64::from(len), 0, u32::from(len) % 1100);
        match self.wal.set_meta(&meta) {
            Ok(()) if meta.len() <= 1024 => self.model.meta = meta,
            Err(Error::RecordTooLarge { max: 1024, .. }) if meta.len() > 1024 => {}
            other => return Err(format!("{other:?}")),
        }
        same("the meta", &self.wal.meta()[..], &self.model.meta)
    }

    fn get(&self, seq: u64) -> Result<(), String> {
        let snapshot = self.wal.snapshot();
        let found = snapshot.get(seq).map_err(unexpected)?.map(rec);
        same("the record", found, self.model.shows(seq).then(|| self.model.record(seq)))
    }

    fn replay(&self, after: u64) -> Result<(), String> {
        self.replay_back(after)?;
        let (snapshot, model) = (self.wal.snapshot(), &self.model);
        let found = match snapshot.replay(after) {
            Err(Error::Ahead { last_seq }) if after > model.last() => return same("the end", last_seq, model.last()),
            Err(Error::Truncated { first_seq }) if after != 0 && after + 1 < model.first => {
                return same("the front", first_seq, model.first);
            }
            other => other.map_err(unexpected)?,
        };
        let found: Vec<Rec> = found.map(|record| record.map(rec)).collect::<Result<_, _>>().map_err(unexpected)?;
        same_records("a replay", &found, &model.records(model.first.max(after + 1), model.last()))
    }

    fn replay_back(&self, before: u64) -> Result<(), String> {
        let (snapshot, model) = (self.wal.snapshot(), &self.model);
        let found = match snapshot.replay_back(before) {
            Err(Error::Ahead { last_seq }) if before > model.last() + 1 => {
                return same("the end", last_seq, model.last());
            }
            Err(Error::Truncated { first_seq }) if before > 1 && before < model.first => {
                return same("the front", first_seq, model.first);
            }
            other => other.map_err(unexpected)?,
        };
        let mut found: Vec<Rec> = found.map(|record| record.map(rec)).collect::<Result<_, _>>().map_err(unexpected)?;
        found.reverse();
        let last = before.saturating_sub(1).min(model.last());
        same_records("a replay backwards", &found, &model.records(model.first, last))
    }

    fn keep(&mut self, durable: bool) -> Result<(), String> {
        let snapshot = if durable { self.wal.durable_snapshot() } else { self.wal.snapshot() };
        let (first, last) = (snapshot.first_seq(), snapshot.last_seq());
        let least = if durable { self.model.durable } else { self.model.last() };
        if !(least..=self.model.last()).contains(&last) {
            return Err(format!("the snapshot ends at {last}, should end at {least} at least"));
        }
        same("its checkpoint", snapshot.checkpoint_seq(), self.model.checkpoint)?;
        same("its front", first, self.model.first)?;
        self.kept.push(Kept { snapshot, first, last, model: self.model.clone() });
        Ok(())
    }

    fn check_kept(&self) -> Result<(), String> {
        for Kept { snapshot, first, last, model } in &self.kept {
            same_records("a kept snapshot", &all(snapshot), &model.records(*first, *last))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<(), String> {
        let snapshot = Reader::open(self.dir.path()).and_then(|reader| reader.snapshot()).map_err(unexpected)?;
        same_records("a reader", &all(&snapshot), &self.model.records(self.model.first, self.model.last()))?;
        same("its checkpoint", snapshot.checkpoint_seq(), self.model.checkpoint)
    }

    fn check_all(&self) -> Result<(), String> {
        let snapshot = self.wal.snapshot();
        same_records("the log", &all(&snapshot), &self.model.records(self.model.first, self.model.last()))
    }

    fn check_positions(&mut self) -> Result<(), String> {
        let Positions { first, last, durable, checkpoint, .. } = self.wal.positions();
        let model = &mut self.model;
        same("the front", first, model.first)?;
        same("the end", last, model.last())?;
        same("the checkpoint", checkpoint, model.checkpoint)?;
        if !(model.durable..=last).contains(&durable) {
            return Err(format!("durable is {durable}, should be {} at least", model.durable));
        }
        model.durable = durable;
        Ok(())
    }

    fn reopen(&mut self, setup: &Setup) -> Result<(), String> {
        self.wal.close().map_err(unexpected)?;
        self.agrees(&parse_dir(self.dir.path()))?;
        self.open(setup)
    }

    fn kill(&mut self, setup: &Setup) -> Result<(), String> {
        let (copy, files) = (scratch(), files_of(self.dir.path()));
        write_files(copy.path(), &files);
        self.agrees(&parse(&files))?;
        self.before.push(std::mem::replace(&mut self.dir, copy));
        self.read()?;
        self.open(setup)
    }

    /// The reference parser sees in the files what the model holds.
    fn agrees(&self, parsed: &Parsed) -> Result<(), String> {
        let model = &self.model;
        // Behind the end of a file that is used again stands its earlier life.
        if !matches!(parsed.verdict, Verdict::Ok { tail: Tail::Clean | Tail::EarlierLife, .. }) {
            return Err(format!("the reference parser says {:?}", parsed.verdict));
        }
        same("its damage", parsed.sealed_damage.clone(), None)?;
        same_records("the reference parser", &parsed.records, &model.records(model.first, model.last()))?;
        let positions = (parsed.first_seq, parsed.last_seq, parsed.checkpoint_seq);
        same("its positions", positions, (model.first, model.last(), model.checkpoint))?;
        same("its meta", &parsed.meta, &model.meta)
    }

    fn open(&mut self, setup: &Setup) -> Result<(), String> {
        let opened = setup.options().open_observed(self.dir.path(), Some(self.random.clone()));
        self.wal = opened.map_err(unexpected)?;
        let report = self.wal.recovery();
        same("a torn tail", report.tail == TailState::Torn, false)?;
        same("the cut", report.cut, None)?;
        // Recovered means durable.
        self.model.durable = self.model.last();
        same("the meta", &self.wal.meta()[..], &self.model.meta)?;
        self.check_all()
    }
}
