//! Threads that use one log at once, each call written down in the [`ledger`](super::ledger), and one that notes what a
//! crash would find at any step.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mmap_wal::{Act, Background, Error, Observer, Options, SyncMode, Wal};
use shuttle::thread;

use super::disk::Disk;
use super::ledger::{Entry, Ledger, Marks, Time};
use super::life::LOG;
use super::machine::{ACTS_OF_UPDATE, Famine, Fault, Phase, changes, describe, is_manifest, is_sealing};
use super::model::Record;
use super::rng::Rng;
use super::stage::{Stage, pause};

/// What a crash would have found.
#[derive(Clone)]
pub struct Moment {
    pub disk: Disk,
    pub at: Time,
    pub phase: Phase,
    pub before: String,
}

/// A call of a writer.
#[derive(Clone, Copy, Debug)]
enum Write {
    Append(usize),
    Batch(&'static [usize]),
    SubmitAndWait(usize),
    SubmitAndForget(usize),
    Try(usize),
    Sync,
    Look,
}

/// A call of the one who takes records away. Shares are per cent of what is there.
#[derive(Clone, Copy, Debug)]
enum Take {
    Checkpoint(u64),
    Front(u64),
    Back(u64),
    Reset(u64),
    Meta(usize),
}

struct Plan {
    mode: SyncMode,
    segment_size: u64,
    spares: usize,
    background: Background,
    writers: Vec<Vec<Write>>,
    takes: Vec<Take>,
    /// After how many steps of its own each further crash is noted.
    crashes: Vec<usize>,
    fault: Option<Fault>,
    famine: Option<Famine>,
    /// Whether the log is closed while the others are at work.
    closes_early: bool,
    /// One in so many acts is noted.
    acts: usize,
}

const SIZES: [usize; 6] = [40, 40, 200, 488, 1000, 1900];
const BATCHES: [&[usize]; 4] = [&[40, 40], &[488, 488], &[1000, 40, 1000], &[1900, 1900]];

fn write(rng: &mut Rng, favourite: usize) -> Write {
    let size = if rng.one_in(2) { favourite } else { *rng.pick(&SIZES) };
    match rng.below(14) {
        0..=5 => Write::Append(size),
        6..=7 => Write::Batch(BATCHES[rng.below(BATCHES.len())]),
        8..=9 => Write::SubmitAndWait(size),
        10 => Write::SubmitAndForget(size),
        11 => Write::Try(size),
        12 => Write::Sync,
        _ => Write::Look,
    }
}

fn take(rng: &mut Rng) -> Take {
    match rng.below(10) {
        0..=1 => Take::Checkpoint(rng.draw() % 101),
        2..=4 => Take::Front(if rng.one_in(2) { 100 } else { rng.draw() % 101 }),
        5..=7 => Take::Back(rng.draw() % 101),
        8 => Take::Reset(rng.draw() % 3),
        _ => Take::Meta(8 + rng.below(600)),
    }
}

impl Plan {
    /// One in four drops what stands in several segments, again and again, so that files are used again.
    fn random(rng: &mut Rng) -> Self {
        let mut plan = Self::mixed(rng);
        if rng.one_in(4) {
            let large = |_: usize| Write::Append(1900);
            plan.writers = (0..2).map(|_| (0..5 + rng.below(3)).map(large).collect()).collect();
            let drops = [Take::Front(100), Take::Front(100), Take::Front(100), Take::Back(50), Take::Reset(0)];
            plan.takes = (0..3 + rng.below(3)).map(|_| *rng.pick(&drops)).collect();
            (plan.segment_size, plan.closes_early) = (12 << 10, false);
            plan.crashes = (0..6 + rng.below(6)).map(|_| 1 + rng.below(20)).collect();
        }
        if plan.fault.is_none() && rng.one_in(4) {
            let lasts = *rng.pick(&[1, 2, 4, usize::MAX]);
            plan.famine = Some(Famine { at: 1 + rng.below(6), lasts });
        }
        plan
    }

    fn mixed(rng: &mut Rng) -> Self {
        let batch = SyncMode::Batch { records: 3, delay: Duration::from_secs(3600) };
        let favourite = *rng.pick(&SIZES);
        let writers = 2 + rng.below(2);
        let mut writes = || (0..2 + rng.below(4)).map(|_| write(rng, favourite)).collect();
        Self {
            writers: (0..writers).map(|_| writes()).collect(),
            mode: *rng.pick(&[SyncMode::Sync, SyncMode::Sync, batch, SyncMode::None]),
            segment_size: *rng.pick(&[12 << 10, 12 << 10, 16 << 10]),
            spares: 1 + rng.below(2),
            background: if rng.one_in(4) { Background::Caller } else { Background::Thread },
            takes: (0..rng.below(4)).map(|_| take(rng)).collect(),
            crashes: (0..2 + rng.below(5)).map(|_| 1 + rng.below(12)).collect(),
            fault: rng.one_in(3).then(|| Fault { at: 1 + rng.below(12), forgets: !rng.one_in(4) }),
            famine: None,
            closes_early: rng.one_in(6),
            acts: 3 + rng.below(6),
        }
    }
}

pub struct Crew {
    dir: PathBuf,
    plan: Plan,
    stage: Arc<Stage>,
    book: Arc<Book>,
}

/// What is written down.
struct Book {
    ledger: Mutex<Ledger>,
    moments: Mutex<Vec<Moment>>,
    /// What each thread is about.
    phases: Mutex<BTreeMap<usize, Phase>>,
    /// Threads that are using a file again, and how many acts of theirs on the manifest are to come.
    recycling: Mutex<BTreeMap<usize, usize>>,
    rng: Mutex<Rng>,
    closing: AtomicBool,
    next_id: Mutex<u64>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn this_thread() -> usize {
    thread::current().id().into()
}

impl fmt::Display for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { mode, segment_size, spares, background, fault, famine, closes_early, .. } = &self.plan;
        write!(f, "{mode:?}, segments of {segment_size}, {spares} spares, {background:?}, {fault:?}, {famine:?}")?;
        write!(f, ", closed early: {closes_early}; {:?}; {:?}", self.plan.writers, self.plan.takes)
    }
}

impl Crew {
    pub fn new(root: &Path, rng: &mut Rng) -> Self {
        let plan = Plan::random(rng);
        let book = Book {
            ledger: Mutex::default(),
            moments: Mutex::default(),
            phases: Mutex::default(),
            recycling: Mutex::default(),
            rng: Mutex::new(rng.clone()),
            closing: AtomicBool::new(false),
            next_id: Mutex::new(1),
        };
        // The same random bits in every history, so that states which are the same are known to be.
        Self { dir: root.join(LOG), plan, stage: Stage::new(root, Disk::default(), 1, false), book: Arc::new(book) }
    }

    pub fn options(&self) -> Options {
        let options = Options::new().sync_mode(self.plan.mode).segment_size(self.plan.segment_size);
        options.spare_segments(self.plan.spares).background(self.plan.background)
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        hold(&self.book.ledger)
    }

    pub fn moments(&self) -> Vec<Moment> {
        std::mem::take(&mut *hold(&self.book.moments))
    }

    /// Opens a new log and lets everybody loose on it.
    pub fn live(&self) -> Result<(), String> {
        let observer =
            Arc::new(Watcher { stage: Arc::clone(&self.stage), book: Arc::clone(&self.book), acts: self.plan.acts });
        let wal = self.options().open_observed(&self.dir, Some(observer)).map_err(|e| e.to_string())?;
        self.stage.turn(true);
        if let Some(fault) = self.plan.fault {
            self.stage.set_fault(fault);
        }
        self.stage.set_famine(self.plan.famine);
        let failures = Mutex::new(Vec::new());
        let note = |done: Result<(), String>| hold(&failures).extend(done.err());
        thread::scope(|scope| {
            for writes in &self.plan.writers {
                let (wal, note) = (&wal, &note);
                scope.spawn(move || note(writes.iter().try_for_each(|write| self.write(wal, *write))));
            }
            scope.spawn(|| note(self.plan.takes.iter().try_for_each(|take| self.take(&wal, *take))));
            scope.spawn(|| self.watch());
            // A scope does nothing but spawn: the model checker wakes whoever made it when its threads have ended.
            if self.plan.closes_early {
                scope.spawn(|| note(self.close(&wal)));
            }
        });
        self.stage.set_famine(None);
        if self.plan.famine.is_some() && !self.plan.closes_early {
            note(self.write(&wal, Write::Append(1900)));
        }
        note(self.close(&wal));
        self.book.note(&self.stage, Phase::Idle, "the end".to_owned());
        self.stage.turn(false);
        self.stage.kill();
        drop(wal);
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    /// Notes what a crash would find, between steps of the others.
    fn watch(&self) {
        for steps in &self.plan.crashes {
            (0..*steps).for_each(|_| pause());
            let phase = hold(&self.book.phases).values().max().copied().unwrap_or(Phase::Idle);
            self.book.note(&self.stage, phase, "any step".to_owned());
        }
    }

    /// What a call came to: `None` if it was refused as it may be.
    fn outcome<T>(&self, what: &str, outcome: Result<T, Error>) -> Result<Option<T>, String> {
        let (failed, closing) = (self.stage.has_failed(), self.book.closing.load(Ordering::SeqCst));
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(Error::Poisoned(_)) if failed => Ok(None),
            Err(Error::Closed) if closing => Ok(None),
            Err(Error::TruncatedBack { .. }) if self.takes_back() => Ok(None),
            Err(e) => Err(format!("{what}: {e}")),
        }
    }

    /// What an append came to, which may have found no space.
    fn written<T>(&self, what: &str, entry: Entry, written: Result<T, Error>) -> Result<Option<T>, String> {
        match written {
            Err(Error::NoSpace(_)) if self.stage.has_refused() => {
                self.ledger().refused_append(entry);
                Ok(None)
            }
            written => self.outcome(what, written),
        }
    }

    fn takes_back(&self) -> bool {
        self.plan.takes.iter().any(|take| matches!(take, Take::Back(_) | Take::Reset(_)))
    }

    fn enter(&self, phase: Phase) {
        hold(&self.book.phases).insert(this_thread(), phase);
    }

    fn leave(&self) {
        hold(&self.book.phases).remove(&this_thread());
    }

    fn close(&self, wal: &Wal) -> Result<(), String> {
        self.enter(Phase::Close);
        self.book.closing.store(true, Ordering::SeqCst);
        let closed = self.outcome("close", wal.close()).map(drop);
        self.leave();
        closed
    }

    /// A record of its own for each length, and its entry in the ledger.
    fn records(&self, lens: &[usize]) -> (Vec<Vec<u8>>, Entry) {
        let mut next_id = hold(&self.book.next_id);
        let payloads: Vec<Vec<u8>> = lens.iter().map(|len| body(&mut next_id, *len)).collect();
        let records = payloads.iter().map(|payload| Record { tag: 0, payload: payload.clone() }).collect();
        (payloads, self.ledger().append(records))
    }

    fn write(&self, wal: &Wal, write: Write) -> Result<(), String> {
        self.enter(match write {
            Write::Batch(_) => Phase::Batch,
            Write::Sync | Write::Look => Phase::Sync,
            _ => Phase::Append,
        });
        let what = format!("{write:?}");
        let written = match write {
            Write::Append(len) => self.append(wal, len, &what),
            Write::Batch(lens) => self.batch(wal, lens, &what),
            Write::SubmitAndWait(len) => self.submit(wal, len, true, &what),
            Write::SubmitAndForget(len) => self.submit(wal, len, false, &what),
            Write::Try(len) => self.attempt(wal, len, &what),
            Write::Sync => {
                let began = self.ledger().begin();
                let synced = self.outcome(&what, wal.sync());
                synced.map(|synced| synced.into_iter().for_each(|seq| self.ledger().promised(seq, began)))
            }
            Write::Look => Ok(()),
        };
        // Whatever the log calls durable is a promise.
        let began = self.ledger().begin();
        let durable = wal.positions().durable;
        self.ledger().promised(durable, began);
        self.leave();
        written
    }

    fn append(&self, wal: &Wal, len: usize, what: &str) -> Result<(), String> {
        let (payloads, entry) = self.records(&[len]);
        if let Some(seq) = self.written(what, entry, wal.append(&payloads[0]))? {
            self.ledger().published(entry, seq);
            if self.plan.mode == SyncMode::Sync {
                self.ledger().durable(entry);
            }
        }
        Ok(())
    }

    fn batch(&self, wal: &Wal, lens: &[usize], what: &str) -> Result<(), String> {
        let (payloads, entry) = self.records(lens);
        if let Some(seqs) = self.written(what, entry, wal.append_batch(&payloads))? {
            self.ledger().published(entry, seqs.first().unwrap_or(0));
            self.ledger().durable(entry);
        }
        Ok(())
    }

    fn submit(&self, wal: &Wal, len: usize, waits: bool, what: &str) -> Result<(), String> {
        let (payloads, entry) = self.records(&[len]);
        let Some(pending) = self.written(what, entry, wal.submit(&payloads[0]))? else { return Ok(()) };
        self.ledger().published(entry, pending.seqs().first().unwrap_or(0));
        if waits && self.outcome(what, pending.wait())?.is_some() {
            self.ledger().durable(entry);
        }
        Ok(())
    }

    fn attempt(&self, wal: &Wal, len: usize, what: &str) -> Result<(), String> {
        let (payloads, entry) = self.records(&[len]);
        if let Some(seq) = self.written(what, entry, wal.try_append(&payloads[0]))?.flatten() {
            self.ledger().published(entry, seq);
        }
        Ok(())
    }

    /// Nobody else takes records away, so what is there can only grow between the look and the call.
    fn take(&self, wal: &Wal, take: Take) -> Result<(), String> {
        self.enter(match take {
            Take::Checkpoint(_) => Phase::Checkpoint,
            Take::Front(_) => Phase::Truncate,
            Take::Back(_) => Phase::TruncateBack,
            Take::Reset(_) => Phase::Reset,
            Take::Meta(_) => Phase::Meta,
        });
        let positions = wal.positions();
        let part = |share: u64| positions.first - 1 + (positions.last + 1 - positions.first) * share / 100;
        let mut marks = self.ledger().marks();
        let cut = self.foresee(take, &mut marks, part, positions.last + 1);
        self.ledger().change(marks.clone(), cut);
        let done = match take {
            Take::Checkpoint(share) => wal.checkpoint(part(share)),
            Take::Front(share) => wal.truncate_front(part(share)),
            Take::Back(share) => wal.truncate_back(part(share)),
            Take::Reset(_) => wal.reset(marks.first),
            Take::Meta(_) => wal.set_meta(&marks.meta),
        };
        let taken = match done {
            // The writers were faster, or the cut would have been within one of their batches.
            Err(Error::InsideBatch { .. } | Error::OutOfRange { .. }) if cut.is_some() => {
                self.ledger().refused();
                Ok(())
            }
            Err(Error::NoSpace(_)) if cut.is_some() && self.stage.has_refused() => {
                self.ledger().refused();
                Ok(())
            }
            done => self.outcome(&format!("{take:?}"), done).map(|done| {
                if done.is_some() {
                    self.ledger().changed(cut.is_some());
                }
            }),
        };
        self.leave();
        taken
    }

    /// What the log will say if this is done, and what is cut.
    fn foresee(&self, take: Take, marks: &mut Marks, part: impl Fn(u64) -> u64, next: u64) -> Option<(u64, bool)> {
        match take {
            Take::Checkpoint(share) => marks.checkpoint = marks.checkpoint.max(part(share)),
            Take::Front(share) => marks.first = marks.first.max(part(share) + 1),
            Take::Back(share) => {
                marks.checkpoint = marks.checkpoint.min(part(share));
                return Some((part(share), false));
            }
            Take::Reset(gap) => {
                // Room for what the writers append meanwhile, or not.
                marks.first = next + 4 * gap;
                return Some((marks.first - 1, true));
            }
            Take::Meta(len) => marks.meta = body(&mut hold(&self.book.next_id), len),
        }
        None
    }
}

/// A payload that no other record has, without a zero byte, so that every sector of it matters.
fn body(next_id: &mut u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(*next_id);
    let id = *next_id;
    *next_id += 1;
    let filler = std::iter::repeat_with(|| rng.draw() as u8 | 1);
    id.to_le_bytes().into_iter().chain(filler).take(len).collect()
}

impl Book {
    fn note(&self, stage: &Stage, phase: Phase, before: String) {
        let phase = if stage.is_starving() { Phase::FullDisk } else { phase };
        let moment = Moment { disk: stage.disk(), at: hold(&self.ledger).now(), phase, before };
        hold(&self.moments).push(moment);
    }

    /// What `act` of this thread belongs to, on a machine whose disk is `disk`.
    fn phase_of(&self, act: &Act<'_>, disk: impl FnOnce() -> Disk) -> Phase {
        let asked = hold(&self.phases).get(&this_thread()).copied();
        let is_other = !matches!(asked, None | Some(Phase::Append | Phase::Batch | Phase::Sync));
        let recycles = self.is_recycling(act);
        let may_seal = is_manifest(act) || matches!(act, Act::SyncRange { .. });
        if may_seal && asked != Some(Phase::Close) && is_sealing(&disk(), act) {
            return Phase::Seal;
        }
        match act {
            _ if recycles => Phase::Recycle,
            _ if is_other => asked.unwrap_or(Phase::Idle),
            act if is_manifest(act) => Phase::Manifest,
            Act::SyncRange { .. } => asked.unwrap_or(Phase::Sync),
            _ => Phase::Rotate,
        }
    }

    /// Whether this thread uses a file again: from its second name on, until the manifest announces it or a new file has
    /// to do.
    fn is_recycling(&self, act: &Act<'_>) -> bool {
        let mut recycling = hold(&self.recycling);
        let thread = this_thread();
        match act {
            Act::Link { .. } => drop(recycling.insert(thread, ACTS_OF_UPDATE)),
            Act::Create(_) => drop(recycling.remove(&thread)),
            _ => {}
        }
        let Some(left) = recycling.get_mut(&thread) else { return false };
        *left -= usize::from(is_manifest(act));
        if *left == 0 {
            recycling.remove(&thread);
        }
        true
    }
}

/// The stage, with somebody who notes what a crash before some acts would find.
struct Watcher {
    stage: Arc<Stage>,
    book: Arc<Book>,
    acts: usize,
}

impl Observer for Watcher {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        if self.stage.is_on() && changes(act) {
            let phase = self.book.phase_of(act, || self.stage.disk());
            let one_in = if phase == Phase::Recycle { self.acts / 2 } else { self.acts };
            if hold(&self.book.rng).one_in(one_in) {
                self.book.note(&self.stage, phase, describe(act));
            }
        }
        self.stage.before(act)
    }

    fn after(&self, act: &Act<'_>) {
        self.stage.after(act);
    }

    fn random(&self) -> Option<u64> {
        self.stage.random()
    }

    fn now(&self) -> Option<u64> {
        self.stage.now()
    }
}
