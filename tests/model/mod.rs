//! A log in three lines of memory, and an executor that does the same to it and to a real one and compares.
//!
//! Needs `crate::fixture` and `crate::reference` beside it; whoever has those can share it.

use std::io::IoSlice;

use mmap_wal::{Background, Error, Options, Positions, Reader, Snapshot, SyncMode, TailState, Wal};

use crate::fixture::{all, files_of, rec, scratch, write_files};
use crate::reference::{Parsed, Rec, Tail, Verdict, parse, parse_dir};

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
    Sync,
    SyncTo(u16),
    Checkpoint(u16),
    TruncateFront(u16),
    SetMeta(u16),
    Get(u16),
    /// Keep a snapshot, and look at it again at the end of the history.
    Keep {
        durable: bool,
    },
    CheckKept,
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

/// What the log should be.
struct Model {
    /// The length of every record that was ever appended; the first has the number 1.
    lens: Vec<u32>,
    first: u64,
    checkpoint: u64,
    /// At least so much is durable.
    durable: u64,
    meta: Vec<u8>,
}

impl Model {
    fn last(&self) -> u64 {
        self.lens.len() as u64
    }

    /// A number of the log, or one around it.
    fn pick(&self, number: u16) -> u64 {
        u64::from(number) % (self.last() + 3)
    }

    fn shows(&self, seq: u64) -> bool {
        (self.first..=self.last()).contains(&seq)
    }

    fn record(&self, seq: u64) -> Rec {
        Rec { seq, tag: 0, payload: payload(seq, self.lens[seq as usize - 1]) }
    }

    fn records(&self, first: u64, last: u64) -> Vec<Rec> {
        (first..=last).map(|seq| self.record(seq)).collect()
    }
}

/// The bytes of record `seq`, if it has `len` of them: no two records have the same.
fn payload(seq: u64, len: u32) -> Vec<u8> {
    let mut word = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
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
}

struct Run {
    dir: tempfile::TempDir,
    wal: Wal,
    model: Model,
    kept: Vec<Kept>,
}

/// Does `ops` to a new log, and says where it differs from the model.
pub fn run(ops: &[Op]) -> Result<(), String> {
    let dir = scratch();
    let setup = Setup { mode: 255, pages: 0, spares: 0, strict: false };
    let wal = setup.options().open(dir.path()).map_err(|e| format!("a new log: {e}"))?;
    let model = Model { lens: Vec::new(), first: 1, checkpoint: 0, durable: 0, meta: Vec::new() };
    let mut run = Run { dir, wal, model, kept: Vec::new() };
    for (i, op) in ops.iter().enumerate() {
        run.step(op).and_then(|()| run.check_positions()).map_err(|e| format!("operation {i}, {op:?}: {e}"))?;
    }
    run.check_all().and_then(|()| run.check_kept()).map_err(|e| format!("in the end: {e}"))
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
    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Append(len) => self.append(len % LONGEST, Wal::append),
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

    fn append(&mut self, len: u32, how: impl FnOnce(&Wal, &[u8]) -> Result<u64, Error>) -> Result<(), String> {
        let seq = self.model.last() + 1;
        let given = how(&self.wal, &payload(seq, len)).map_err(unexpected)?;
        self.model.lens.push(len);
        same("its number", given, seq)
    }

    fn append_vectored(&mut self, lens: &[u16]) -> Result<(), String> {
        let lens: Vec<usize> = lens.iter().map(|len| usize::from(*len) % 3000).collect();
        self.append(lens.iter().sum::<usize>() as u32, |wal, payload| {
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
        let done = self.wal.append_with(max as usize, |bytes| {
            let zeroed = bytes.len() == max as usize && bytes.iter().all(|byte| *byte == 0);
            let fill = payload(seq, len.min(max));
            bytes[..fill.len()].copy_from_slice(&fill);
            match (zeroed, fails) {
                (false, _) => Err("the bytes were not zero"),
                (true, true) => Err("no"),
                (true, false) => Ok(len as usize),
            }
        });
        match done {
            Ok(Ok(given)) if len <= max => {
                self.model.lens.push(len);
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
        let payloads: Vec<_> = lens.iter().zip(first..).map(|(len, seq)| payload(seq, *len)).collect();
        let seqs = self.wal.append_batch(&payloads).map_err(unexpected)?;
        self.model.lens.extend(&lens);
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

    fn set_meta(&mut self, len: u16) -> Result<(), String> {
        let meta = payload(u64::from(len), u32::from(len) % 1100);
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

    fn keep(&mut self, durable: bool) -> Result<(), String> {
        let snapshot = if durable { self.wal.durable_snapshot() } else { self.wal.snapshot() };
        let (first, last) = (snapshot.first_seq(), snapshot.last_seq());
        let least = if durable { self.model.durable } else { self.model.last() };
        if !(least..=self.model.last()).contains(&last) {
            return Err(format!("the snapshot ends at {last}, should end at {least} at least"));
        }
        same("its checkpoint", snapshot.checkpoint_seq(), self.model.checkpoint)?;
        same("its front", first, self.model.first)?;
        self.kept.push(Kept { snapshot, first, last });
        Ok(())
    }

    fn check_kept(&self) -> Result<(), String> {
        for Kept { snapshot, first, last } in &self.kept {
            same_records("a kept snapshot", &all(snapshot), &self.model.records(*first, *last))?;
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
        self.dir = copy;
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
        self.wal = setup.options().open(self.dir.path()).map_err(unexpected)?;
        let report = self.wal.recovery();
        same("a torn tail", report.tail == TailState::Torn, false)?;
        same("the cut", report.cut, None)?;
        // Recovered means durable.
        self.model.durable = self.model.last();
        same("the meta", &self.wal.meta()[..], &self.model.meta)?;
        self.check_all()
    }
}
