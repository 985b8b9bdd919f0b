//! One life of a process on a log: it opens what a crash left, is held against the model, and goes on.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmap_wal::{Error, Observer, Reader, Snapshot, SyncMode, TailState, Wal};

use super::disk::Disk;
use super::history::{Life, Op, Setup};
use super::machine::{BEGUN, FRAMES, Machine, Moment, Phase};
use super::model::{Crash, Model, Record, Shown};
use super::rng::Rng;
use crate::reference::manifest::{self, Kind};
use crate::reference::{self, Parsed, Tail, Verdict};

/// The directory of the log; the one above it is made by the log too.
pub const LOG: &str = "up/log";

/// What a frame has before its payload.
const HEADER: usize = 24;

/// What a life begins with.
#[derive(Clone)]
pub struct Start {
    pub disk: Disk,
    pub model: Model,
    pub crash: Crash,
    /// Whether everything in the log is whole, so that nothing may be cut.
    pub whole: bool,
}

impl Start {
    pub fn nothing() -> Self {
        Self { disk: Disk::default(), model: Model::new(), crash: Crash::Power, whole: false }
    }
}

/// From when on the moments of a life are noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Never,
    Opened,
    Always,
}

/// Lives `life` in the empty directory `root`; what it noted, and how the log ended when it was opened, or what went wrong.
pub fn live(
    root: &Path,
    start: &Start,
    setup: &Setup,
    life: &Life,
    seed: u64,
    watch: Watch,
) -> Result<(Vec<Moment>, Option<TailState>), String> {
    let image = start.disk.live_image();
    image.materialise(root).map_err(|e| format!("cannot write the image: {e}"))?;
    let parsed = reference::parse(&image.files_in(LOG));
    let mut session = Session::new(root, start, setup, life, seed, watch);
    if seed.is_multiple_of(8) && start.model.created {
        session.read_only(start.crash, &parsed)?;
    }
    session.machine.set_fault(life.fault);
    session.machine.set_famine(life.famine);
    let tail = session.first_open(start, &parsed)?;
    if tail.is_some() {
        for op in &life.ops {
            session.run(*op).map_err(|message| format!("{op:?}: {message}"))?;
        }
        if life.famine.is_some() {
            session.machine.set_famine(None);
            let again = session.run(Op::Append(setup.favourite));
            again.map_err(|message| format!("an append, now that there is space: {message}"))?;
        }
        session.check_live()?;
    }
    let (moments, _) = session.machine.kill();
    Ok((moments, tail))
}

struct Session {
    dir: PathBuf,
    setup: Setup,
    machine: Arc<Machine>,
    watch: Watch,
    /// Whether something may be refused.
    starves: bool,
    wal: Option<Wal>,
    model: Model,
    shared: Arc<Model>,
}

impl Session {
    fn new(root: &Path, start: &Start, setup: &Setup, life: &Life, seed: u64, watch: Watch) -> Self {
        let mut model = start.model.clone();
        if start.crash == Crash::Power {
            model.lose_power();
        }
        let shared = Arc::new(model.clone());
        let machine = Machine::new(root, start.disk.clone(), &shared, seed);
        if watch == Watch::Always {
            machine.record();
        }
        let (dir, starves) = (root.join(LOG), life.famine.is_some());
        Self { dir, setup: *setup, machine, watch, starves, wal: None, model, shared }
    }

    fn enter(&mut self, phase: Phase) {
        self.shared = Arc::new(self.model.clone());
        self.machine.enter(phase, &self.shared);
    }

    fn leave(&mut self) {
        self.shared = Arc::new(self.model.clone());
        self.machine.leave(&self.shared);
    }

    /// Another process reads what the crash left, before anybody repairs it.
    fn read_only(&self, crash: Crash, parsed: &Parsed) -> Result<(), String> {
        let snapshot = Reader::open(&self.dir).and_then(|reader| reader.snapshot());
        let snapshot = snapshot.map_err(|e| format!("a reader is refused: {e}"))?;
        let shown = shown(&snapshot, snapshot.last_seq(), parsed.meta.clone())?;
        self.model.check(&shown, crash).map_err(|message| format!("a reader finds: {message}"))
    }

    fn open(&mut self) -> Result<Wal, Error> {
        self.enter(if self.model.created { Phase::Recover } else { Phase::Create });
        let observer: Arc<dyn Observer> = Arc::clone(&self.machine) as Arc<dyn Observer>;
        let watched = (self.watch != Watch::Never || self.starves).then_some(observer);
        self.setup.options().open_observed(&self.dir, watched)
    }

    /// A log that is there opens without space; a new one when there is some.
    fn open_for_want_of_space(&mut self) -> Result<Wal, Error> {
        match self.open() {
            Err(Error::NoSpace(_)) if !self.model.created && self.machine.has_refused() => {
                self.leave();
                self.machine.set_famine(None);
                self.open()
            }
            opened => opened,
        }
    }

    /// Opens what the crash left; how it ended, or `None` if the fault struck meanwhile, so that there is nothing to go on with.
    fn first_open(&mut self, start: &Start, parsed: &Parsed) -> Result<Option<TailState>, String> {
        let wal = match self.open_for_want_of_space() {
            Err(_) if self.machine.has_failed() => {
                self.leave();
                return Ok(None);
            }
            opened => opened.map_err(|e| format!("the log cannot be opened: {e}"))?,
        };
        if self.machine.has_failed() {
            return Err("a sync failed while the log was opened, and nobody was told".to_owned());
        }
        let found = self.found(&wal)?;
        self.model.check(&found, start.crash)?;
        if start.whole && wal.recovery().tail == TailState::Torn {
            return Err("only the process died, and the end is torn".to_owned());
        }
        check_parsed(parsed, &found, &wal, self.model.created)?;
        self.model.opened(&found);
        if self.watch == Watch::Opened {
            self.machine.record();
        }
        self.leave();
        let tail = wal.recovery().tail;
        self.wal = Some(wal);
        Ok(Some(tail))
    }

    fn found(&self, wal: &Wal) -> Result<Shown, String> {
        shown(&wal.snapshot(), wal.positions().durable, wal.meta().to_vec())
    }

    /// What the log shows while it is open: everything that was published, and nothing else.
    fn check_live(&self) -> Result<(), String> {
        self.wal.as_ref().map_or(Ok(()), |wal| self.check_open(wal))
    }

    fn check_open(&self, wal: &Wal) -> Result<(), String> {
        let found = self.found(wal)?;
        if found.durable < self.model.durable {
            return Err(format!("the log calls {} durable, and {} was promised", found.durable, self.model.durable));
        }
        self.model.check(&Shown { durable: found.last, ..found }, Crash::Process)
    }

    fn run(&mut self, op: Op) -> Result<(), String> {
        let Some(wal) = self.wal.take() else { return Ok(()) };
        if self.machine.has_failed() {
            let refused = self.call(&wal, op);
            // Closing again does nothing.
            self.wal = (op != Op::Reopen).then_some(wal);
            return match refused {
                Err(Error::Poisoned(_)) => Ok(()),
                other => Err(format!("after a failed sync: {other:?}")),
            };
        }
        let split = match op {
            Op::TruncateBack(part) => Some(part_of(&wal, part)).filter(|after| self.model.is_inside_batch(*after)),
            _ => None,
        };
        let promise = self.promise(&wal, op);
        self.enter(phase_of(op));
        let returned = self.call(&wal, op);
        match returned {
            Err(Error::NoSpace(_)) if self.machine.has_refused() => {
                self.refused(&wal, op)?;
                self.wal = Some(wal);
            }
            Err(Error::InsideBatch { seq }) if split == Some(seq) => {
                self.returned(&wal, op, 0)?;
                self.wal = Some(wal);
            }
            Ok(_) if split.is_some() => return Err("it cut a batch in two".to_owned()),
            Err(Error::Poisoned(_)) if self.machine.has_failed() => self.wal = (op != Op::Reopen).then_some(wal),
            Err(e) => return Err(e.to_string()),
            Ok(Some(seq)) if seq != self.model.ceiling => {
                return Err(format!("it returned {seq}, not {}", self.model.ceiling));
            }
            Ok(_) if op == Op::Reopen => {
                self.model.promised(promise);
                self.leave();
                drop(wal);
                self.reopen()?;
            }
            Ok(_) => {
                self.returned(&wal, op, promise)?;
                self.wal = Some(wal);
            }
        }
        self.leave();
        Ok(())
    }

    /// The disk was full: nothing has happened, and no number is taken.
    fn refused(&mut self, wal: &Wal, op: Op) -> Result<(), String> {
        let records = self.under_way().into_iter().map(|record| record.payload.len());
        let need: usize = records.map(|len| (HEADER + len).next_multiple_of(8)).sum();
        let may_be = match op {
            Op::Append(_) | Op::AppendWith(_) | Op::AppendEcho(_) | Op::Batch(_) => true,
            Op::TruncateBack(_) | Op::Reset(_) => true,
            Op::Sync | Op::Checkpoint(_) | Op::TruncateFront(_) | Op::SetMeta(_) | Op::Reopen => false,
        };
        if !may_be {
            return Err("it needs no space, and was refused for want of it".to_owned());
        }
        // A call that fills the bytes in place asks for a few more.
        if self.has_spare_for(need + 8, matches!(op, Op::TruncateBack(_)))? {
            return Err("it was refused for want of space, and a spare was announced that it fits".to_owned());
        }
        self.model.refused();
        let last = wal.positions().last;
        if last != self.model.published {
            return Err(format!("it was refused for want of space, and the log ends at {last}"));
        }
        self.check_open(wal)
    }

    /// Whether the manifest announces a spare, not begun, with room for `need` bytes of frames; for a cut, one that was
    /// prepared after all segments that hold records.
    fn has_spare_for(&self, need: usize, cuts: bool) -> Result<bool, String> {
        let files = self.machine.disk().live_image().files_in(LOG);
        let said = files.get("MANIFEST").map(|bytes| manifest::decode(bytes));
        let Some(Ok(said)) = said else { return Err("there is no manifest".to_owned()) };
        let is_unused = |ordinal: u64| {
            let bytes = files.get(&format!("{ordinal:020}.wal"));
            bytes.is_some_and(|bytes| bytes[BEGUN..BEGUN + 8] == [0; 8])
        };
        let (spares, used): (Vec<_>, Vec<_>) =
            said.entries.iter().partition(|entry| entry.kind() == Kind::Spare && is_unused(entry.ordinal));
        let last = used.iter().map(|entry| entry.ordinal).max().filter(|_| cuts).unwrap_or(0);
        Ok(spares.iter().any(|spare| spare.capacity as usize >= FRAMES + need && spare.ordinal > last))
    }

    fn returned(&mut self, wal: &Wal, op: Op, promise: u64) -> Result<(), String> {
        self.model.returned();
        self.model.promised(promise);
        let positions = wal.positions();
        if positions.last != self.model.published {
            return Err(format!("the log ends at {}, not {}", positions.last, self.model.published));
        }
        if let SyncMode::Batch { records, .. } = self.setup.mode {
            let unsynced = positions.last - positions.durable;
            if matches!(op, Op::Append(_)) && unsynced >= 2 * u64::from(records) && !self.machine.has_failed() {
                return Err(format!("{unsynced} records are not synced, in batches of {records}"));
            }
        }
        // Whatever the log calls durable is a promise too.
        self.model.promised(positions.durable);
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        let wal = match self.open() {
            Err(_) if self.machine.has_failed() => return Ok(()),
            opened => opened.map_err(|e| format!("a closed log cannot be opened: {e}"))?,
        };
        let found = self.found(&wal)?;
        self.model.check(&found, Crash::Process)?;
        if wal.recovery().tail != TailState::Clean {
            return Err(format!("a closed log ends {:?}", wal.recovery().tail));
        }
        self.model.opened(&found);
        self.wal = Some(wal);
        Ok(())
    }

    /// Tells the model what is about to happen; up to where it will be durable when it has returned.
    fn promise(&mut self, wal: &Wal, op: Op) -> u64 {
        let positions = wal.positions();
        let in_sync = self.setup.mode == SyncMode::Sync;
        match op {
            Op::Append(len) => self.adds(&[len], true),
            Op::AppendWith(len) => self.adds(&[len], false),
            Op::Batch(lens) => self.adds(lens, false),
            Op::AppendEcho(len) => {
                let payload = self.machine.echo(len);
                self.model.append(vec![Record { tag: 0, payload }]);
            }
            Op::Checkpoint(part) => self.model.checkpoint.push(part_of(wal, part).max(positions.checkpoint)),
            Op::TruncateFront(part) => self.model.first.push((part_of(wal, part) + 1).max(positions.first)),
            Op::TruncateBack(part) => {
                let after = part_of(wal, part);
                if !self.model.is_inside_batch(after) {
                    self.model.cut(after);
                }
            }
            Op::Reset(gap) => self.model.reset(positions.last + 1 + gap),
            Op::SetMeta(len) => {
                let meta = body(self.model.next_id, len);
                self.model.next_id += 1;
                self.model.meta.push(meta);
            }
            Op::Sync | Op::Reopen => {}
        }
        match op {
            Op::Append(_) | Op::AppendWith(_) | Op::AppendEcho(_) if in_sync => self.model.ceiling,
            Op::Batch(lens) if !lens.is_empty() => self.model.ceiling,
            Op::Sync | Op::Reopen => self.model.ceiling,
            Op::Checkpoint(part) | Op::TruncateFront(part) => part_of(wal, part),
            _ => 0,
        }
    }

    fn adds(&mut self, lens: &[usize], tagged: bool) {
        let mut records = Vec::new();
        for len in lens {
            let id = self.model.next_id;
            self.model.next_id += 1;
            records.push(Record { tag: if tagged { id as u16 } else { 0 }, payload: body(id, *len) });
        }
        self.model.append(records);
    }

    /// The records that the model knows to be under way.
    fn under_way(&self) -> Vec<&Record> {
        self.model.records.range(self.model.published + 1..).map(|(_, record)| &**record).collect()
    }

    /// Does it; the seq that it gave, if it gives one.
    fn call(&self, wal: &Wal, op: Op) -> Result<Option<u64>, Error> {
        let none = Record { tag: 0, payload: Vec::new() };
        let records = self.under_way();
        let record = records.first().copied().unwrap_or(&none);
        let payload = record.payload.as_slice();
        match op {
            Op::Append(_) => {
                let half = payload.len() / 2;
                let parts = [IoSlice::new(&payload[..half]), IoSlice::new(&payload[half..])];
                wal.append_tagged(record.tag, &parts).map(Some)
            }
            Op::AppendEcho(_) => wal.append(payload).map(Some),
            Op::AppendWith(_) => {
                let fill = |bytes: &mut [u8]| {
                    bytes[..payload.len()].copy_from_slice(payload);
                    Ok::<usize, ()>(payload.len())
                };
                wal.append_with(payload.len() + 8, fill).map(Result::ok)
            }
            Op::Batch(_) => {
                let payloads: Vec<&[u8]> = records.iter().map(|record| record.payload.as_slice()).collect();
                wal.append_batch(&payloads).map(|seqs| seqs.last())
            }
            Op::Sync => wal.sync().map(Some),
            Op::Checkpoint(part) => wal.checkpoint(part_of(wal, part)).map(|()| None),
            Op::TruncateFront(part) => wal.truncate_front(part_of(wal, part)).map(|()| None),
            Op::TruncateBack(part) => wal.truncate_back(part_of(wal, part)).map(|()| None),
            Op::Reset(gap) => wal.reset(wal.positions().last + 1 + gap).map(|()| None),
            Op::SetMeta(_) => wal.set_meta(self.model.meta.last().map_or(&[], Vec::as_slice)).map(|()| None),
            Op::Reopen => wal.close().map(|()| None),
        }
    }
}

fn phase_of(op: Op) -> Phase {
    match op {
        Op::Append(_) | Op::AppendWith(_) | Op::AppendEcho(_) => Phase::Append,
        Op::Batch(_) => Phase::Batch,
        Op::Sync => Phase::Sync,
        Op::Checkpoint(_) => Phase::Checkpoint,
        Op::TruncateFront(_) => Phase::Truncate,
        Op::TruncateBack(_) => Phase::TruncateBack,
        Op::Reset(_) => Phase::Reset,
        Op::SetMeta(_) => Phase::Meta,
        Op::Reopen => Phase::Close,
    }
}

/// The seq at this per cent of the log.
fn part_of(wal: &Wal, part: u64) -> u64 {
    let positions = wal.positions();
    positions.first - 1 + (positions.last + 1 - positions.first) * part / 100
}

/// A payload without a zero byte, so that every sector of it matters.
fn body(id: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(id);
    let filler = std::iter::repeat_with(|| rng.draw() as u8 | 1);
    id.to_le_bytes().into_iter().chain(filler).take(len).collect()
}

pub fn shown(snapshot: &Snapshot, durable: u64, meta: Vec<u8>) -> Result<Shown, String> {
    let replay = snapshot.replay(0).map_err(|e| format!("no replay: {e}"))?;
    let records = replay.map(|record| {
        let record = record.map_err(|e| format!("replay stops: {e}"))?;
        Ok((record.seq(), Record { tag: record.tag(), payload: record.payload().to_vec() }))
    });
    Ok(Shown {
        first: snapshot.first_seq(),
        last: snapshot.last_seq(),
        durable,
        checkpoint: snapshot.checkpoint_seq(),
        meta,
        records: records.collect::<Result<_, String>>()?,
    })
}

/// Holds what the library found against what the reference parser found in the same bytes.
pub fn check_parsed(parsed: &Parsed, found: &Shown, wal: &Wal, must_be: bool) -> Result<(), String> {
    let tail = match &parsed.verdict {
        Verdict::Ok { tail, .. } => *tail,
        Verdict::NoLog if !must_be && wal.recovery().created => return Ok(()),
        verdict => return Err(format!("the library opened what the reference parser calls {verdict:?}")),
    };
    let same_tail = matches!(
        (tail, wal.recovery().tail),
        (Tail::Clean, TailState::Clean) | (Tail::Torn, TailState::Torn) | (Tail::EarlierLife, TailState::EarlierLife)
    );
    let records = found.records.iter().map(|(seq, record)| (*seq, record.tag, record.payload.as_slice()));
    let same = same_tail
        && (parsed.first_seq, parsed.last_seq, parsed.checkpoint_seq) == (found.first, found.last, found.checkpoint)
        && parsed.meta == found.meta
        && records.eq(parsed.records.iter().map(|rec| (rec.seq, rec.tag, rec.payload.as_slice())));
    if same {
        Ok(())
    } else {
        Err(format!("the reference parser found {parsed:?}, the library {:?} and {found:?}", wal.recovery()))
    }
}
