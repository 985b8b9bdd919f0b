//! The campaign: histories by seed, a crash at every act of each, and what each crash can leave.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mmap_wal::SyncMode;

use super::disk::Disk;
use super::history::{Life, NEEDS_OF_NEW, Op, Setup, focused, short, starved, starving};
use super::image::Doubts;
use super::life::{LOG, Start, Watch, live};
use super::machine::{AT_REST, Famine, Moment, Phase};
use super::model::Crash;
use super::rng::{Rng, mix};

/// How far a campaign goes.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// Stop when so many distinct states were opened.
    pub states: usize,
    /// Or after so many seeds.
    pub seeds: u64,
    pub threads: usize,
}

/// Distinct crashed states that were opened, by what was under way.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    pub states: BTreeMap<Phase, usize>,
    /// How many of them were crashes of a log that had been recovered from a crash: once, twice, ...
    pub depths: BTreeMap<usize, usize>,
    pub process_crashes: usize,
    /// How many opens found the log to end how.
    pub tails: BTreeMap<&'static str, usize>,
    pub seeds: u64,
}

impl Histogram {
    pub fn total(&self) -> usize {
        self.states.values().sum()
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8} distinct crashed states, {} histories", self.total(), self.seeds)?;
        for (phase, count) in &self.states {
            let share = *count as f64 * 100.0 / self.total() as f64;
            writeln!(f, "{count:>8} {share:>5.1} % {}", in_words(&format!("{phase:?}")))?;
        }
        for (depth, count) in &self.depths {
            writeln!(f, "{count:>8} after {depth} earlier crashes")?;
        }
        for (tail, count) in &self.tails {
            writeln!(f, "{count:>8} opened with a {tail} end")?;
        }
        write!(f, "{:>8} of them process crashes", self.process_crashes)
    }
}

/// `TruncateBack` as `truncate_back`.
fn in_words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// A promise that was broken, and all that is needed to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub trail: Vec<String>,
    pub message: String,
    /// How many distinct states had been opened.
    pub states: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        for step in &self.trail {
            writeln!(f, "  {step}")?;
        }
        write!(f, "  again: MMAP_WAL_CRASH_SEED={} (after {} states)", self.seed, self.states)
    }
}

pub struct Shared {
    campaign: Campaign,
    next_seed: AtomicU64,
    stopped: AtomicBool,
    found: Mutex<(HashSet<u64>, Histogram, Option<Failure>)>,
}

impl Campaign {
    /// Runs the seeds from `first` on.
    pub fn run(self, first: u64) -> Result<Histogram, Failure> {
        let shared = Shared {
            campaign: self,
            next_seed: AtomicU64::new(first),
            stopped: AtomicBool::new(false),
            found: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| shared.work(first.saturating_add(self.seeds)));
            }
        });
        let (_, histogram, failure) = shared.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(histogram), Err)
    }
}

impl Shared {
    fn work(&self, end: u64) {
        let base = scratch_dir();
        loop {
            let seed = self.next_seed.fetch_add(1, Ordering::Relaxed);
            if seed >= end || self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let mut explorer = Explorer::new(self, base.path(), seed);
            match explorer.history() {
                Ok(()) => self.found.lock().unwrap_or_else(PoisonError::into_inner).1.seeds += 1,
                Err(failure) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.2.get_or_insert(failure);
                }
            }
        }
    }

    /// Counts a state; whether it is a new one.
    fn count(&self, key: u64, phase: Phase, depth: usize, crash: Crash) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let (keys, histogram, _) = &mut *found;
        let is_new = keys.insert(key);
        if is_new {
            *histogram.states.entry(phase).or_default() += 1;
            *histogram.depths.entry(depth).or_default() += 1;
            histogram.process_crashes += usize::from(crash == Crash::Process);
        }
        if keys.len() >= self.campaign.states {
            self.stopped.store(true, Ordering::Relaxed);
        }
        is_new
    }
}

/// In memory where the system has such a place: nothing here needs a device.
pub fn scratch_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.expect("a directory for the simulated disks")
}

/// The smallest slot of a manifest that is read: smaller than any new one.
const SMALLEST_SLOT: usize = 4096;

/// How many crashes one history goes through.
const MOST_DEPTH: usize = 3;

/// How a history begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Short,
    Long,
    Focused,
    /// There is no space for a while.
    Starving,
    /// The log is damaged, and repaired.
    Repaired,
}

impl Kind {
    /// Nearly half are short histories, of which everything is tried; some are long and random; the others bring about
    /// what is rare.
    fn of(seed: u64) -> Self {
        match seed % 8 {
            0 | 2 | 4 => Self::Short,
            1 => Self::Long,
            3 | 7 => Self::Focused,
            5 => Self::Starving,
            _ => Self::Repaired,
        }
    }

    /// After how many power losses, and after how many process crashes, the log goes on once.
    fn deeper(self) -> (usize, usize) {
        match self {
            Self::Short => (200, 12),
            Self::Long => (30, 12),
            Self::Focused => (16, 4),
            Self::Starving | Self::Repaired => (60, 12),
        }
    }
}

/// How much more of what a phase can leave is looked at than of those that most histories are full of.
fn rarity(phase: Phase) -> usize {
    match phase {
        Phase::Recover | Phase::Append | Phase::Rotate | Phase::Seal | Phase::Manifest | Phase::FullDisk => 1,
        Phase::Recycle | Phase::TruncateBack | Phase::Reset | Phase::Idle => 2,
        Phase::Create | Phase::Batch | Phase::Checkpoint | Phase::Close => 8,
        _ => 4,
    }
}

/// Goes through one history.
pub struct Explorer<'a> {
    shared: &'a Shared,
    base: &'a Path,
    seed: u64,
    pub setup: Setup,
    kind: Kind,
    pub trail: Vec<String>,
    roots: u64,
}

impl<'a> Explorer<'a> {
    fn new(shared: &'a Shared, base: &'a Path, seed: u64) -> Self {
        let setup = short(0).0;
        Self { shared, base, seed, setup, kind: Kind::of(seed), trail: Vec::new(), roots: 0 }
    }

    fn history(&mut self) -> Result<(), Failure> {
        let mut rng = Rng::new(mix(self.seed));
        let mut life;
        (self.setup, life) = match self.kind {
            // The third of the short ones stands for seed 4 of 8.
            Kind::Short => short(self.seed / 8 * 3 + self.seed % 8 / 2),
            Kind::Focused => focused(&mut rng),
            Kind::Starving => starving(&mut rng),
            Kind::Repaired => return self.repaired(&mut rng),
            Kind::Long => {
                let setup = Setup::random(&mut rng);
                (setup, Life::random(&mut rng, &setup, 14))
            }
        };
        // All creations are much the same, but for those that fail.
        let is_always = life.fault.is_some() || life.famine.is_some_and(|famine| famine.at <= NEEDS_OF_NEW);
        let watch = if is_always || self.seed % 8 < 2 { Watch::Always } else { Watch::Opened };
        self.trail.push(format!("{:?}", self.setup));
        let start = if self.seed % 32 == 5 { self.cramped()? } else { Start::nothing() };
        // What is there needs no space to come into being.
        let at = |famine: Famine| if start.model.created { 1 + famine.at % 8 } else { famine.at };
        life.famine = life.famine.map(|famine| Famine { at: at(famine), ..famine });
        self.explore(&start, &life, watch, 0, &mut rng)
    }

    /// A log whose manifest is as small as can be, so that it grows with the next spare.
    fn cramped(&mut self) -> Result<Start, Failure> {
        let moments = self.live(&Start::nothing(), &Life::of(vec![Op::Append(40)]), 1, Watch::Opened)?;
        let last = moments.last().expect("an append has an end");
        let mut image = last.disk.live_image();
        let node = image.files[&format!("{LOG}/MANIFEST")];
        let whole = &image.contents[&node];
        let slot = |at: usize| &whole[at..at + SMALLEST_SLOT];
        let small = [slot(0), slot(whole.len() / 2)].concat();
        image.contents.insert(node, Arc::new(small));
        let mut model = (*last.model).clone();
        model.promised(model.ceiling);
        self.trail.push("a log whose manifest has the smallest slots".to_owned());
        Ok(Start { disk: Disk::of(&image), model, crash: Crash::Process, whole: true })
    }

    fn explore(
        &mut self,
        start: &Start,
        life: &Life,
        watch: Watch,
        depth: usize,
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        self.trail.push(format!("a process does {:?}, {:?}, {:?}", life.ops, life.fault, life.famine));
        let draw = rng.draw();
        // New logs draw the same random bits in every history, so that states which are the same are known to be.
        let moments = self.live(start, life, if depth == 0 { 1 } else { draw }, watch)?;
        for (index, moment) in moments.iter().enumerate() {
            if self.is_stopped() {
                break;
            }
            // Many histories tell more than every moment of a few; short ones, and what is rare, are tried whole.
            let skipped = rng.one_in(2) || (depth > 0 && rng.one_in(2));
            let whole = depth == 0 && self.kind != Kind::Long || depth == 1 && rarity(moment.phase) > 1;
            if whole || !skipped || moment.before == AT_REST {
                self.power_loss(moment, index, depth, rng)?;
                self.process_crash(moment, index, depth, rng)?;
            }
        }
        self.trail.pop();
        Ok(())
    }

    /// Everything, or some of everything, that a power loss at `moment` may leave.
    fn power_loss(&mut self, moment: &Moment, index: usize, depth: usize, rng: &mut Rng) -> Result<(), Failure> {
        let doubts = Doubts::of(&moment.disk);
        let rarity = rarity(moment.phase);
        let (all_below, some) = match (self.kind, depth) {
            (Kind::Short, 0) => (1024, 64),
            (_, 0) => (8 * rarity, 12 * rarity),
            (_, 1) => (4 * rarity, 6 * rarity),
            _ => (2, 2 + rarity),
        };
        let model = moment.model.digest();
        for choice in doubts.choices(all_below, some, rng) {
            let mut rng = Rng::new(rng.draw());
            let image = doubts.image(&choice);
            let key = mix(image.digest() ^ model.rotate_left(1));
            if !self.is_new(key, moment.phase, depth, Crash::Power) {
                continue;
            }
            let what = format!("power fails at moment {index} ({:?}), before: {}", moment.phase, moment.before);
            self.trail.push(format!("{what}; reached the disk: {choice:?}"));
            let start =
                Start { disk: Disk::of(&image), model: (*moment.model).clone(), crash: Crash::Power, whole: false };
            self.go_on(&start, moment.full, depth, self.kind.deeper().0 << depth, &mut rng)?;
            self.trail.pop();
        }
        Ok(())
    }

    /// The process dies at `moment`, and the page cache lives on.
    fn process_crash(&mut self, moment: &Moment, index: usize, depth: usize, rng: &mut Rng) -> Result<(), Failure> {
        let mut rng = Rng::new(rng.draw());
        let key = mix(moment.disk.live_image().digest() ^ moment.model.digest().rotate_left(2));
        if rng.one_in(2) || !self.is_new(key, moment.phase, depth, Crash::Process) {
            return Ok(());
        }
        self.trail.push(format!("the process dies at moment {index} ({:?}), before: {}", moment.phase, moment.before));
        // What an unfinished recovery is about to cut is still there.
        let whole = !moment.recovers;
        let start = Start { disk: moment.disk.clone(), model: (*moment.model).clone(), crash: Crash::Process, whole };
        let deeper = if moment.failed { 2 } else { self.kind.deeper().1 << depth };
        self.go_on(&start, moment.full, depth, deeper, &mut rng)?;
        self.trail.pop();
        Ok(())
    }

    /// Opens what a crash left, on a disk that is still `full` or not; one time in `deeper` the log goes on and crashes
    /// again.
    fn go_on(&mut self, start: &Start, full: bool, depth: usize, deeper: usize, rng: &mut Rng) -> Result<(), Failure> {
        let full = full && rng.one_in(2);
        // Few histories have a creation behind a creation that crashed.
        let deeper = if start.model.created { deeper } else { deeper.min(if depth == 0 { 2 } else { 20 }) };
        if depth + 1 < MOST_DEPTH && rng.one_in(deeper) {
            let mut life = match self.kind {
                Kind::Starving => starved(rng, &self.setup, 4),
                kind => Life::random(rng, &self.setup, if kind == Kind::Focused { 2 } else { 5 }),
            };
            if self.kind == Kind::Focused && self.setup.mode == SyncMode::None {
                life.ops.push(Op::Sync);
            }
            if full {
                life.famine = life.famine.map(|famine| Famine { at: 1, ..famine });
            }
            return self.explore(start, &life, Watch::Always, depth + 1, rng);
        }
        let ops = if rng.one_in(4) { vec![Op::Append(40), Op::Reopen] } else { vec![] };
        let famine = full.then_some(Famine { at: 1, lasts: usize::MAX });
        let life = Life { famine, ..Life::of(ops) };
        self.live(start, &life, rng.draw(), Watch::Never).map(drop)
    }

    /// Lives `life`; what it noted.
    pub fn live(&mut self, start: &Start, life: &Life, seed: u64, watch: Watch) -> Result<Vec<Moment>, Failure> {
        let setup = self.setup;
        let lived = self.in_scratch(|explorer, root| {
            live(root, start, &setup, life, seed, watch).inspect_err(|_| {
                explorer.trail.push(format!("opened, and then {:?}", life.ops));
            })
        });
        let (moments, tail) = lived?;
        let mut found = self.shared.found.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().for_each(|tail| *found.1.tails.entry(tail.as_str()).or_default() += 1);
        Ok(moments)
    }

    /// Does something in a directory of its own.
    pub fn in_scratch<T>(&mut self, run: impl FnOnce(&mut Self, &Path) -> Result<T, String>) -> Result<T, Failure> {
        let root: PathBuf = self.base.join(self.roots.to_string());
        self.roots += 1;
        std::fs::create_dir(&root).expect("a directory for a simulated disk");
        let ran = catch_unwind(AssertUnwindSafe(|| run(self, &root)));
        std::fs::remove_dir_all(&root).expect("the simulated disk is removed");
        ran.unwrap_or_else(|_| Err("it panicked".to_owned())).map_err(|message| {
            let states = self.shared.found.lock().unwrap_or_else(PoisonError::into_inner).0.len();
            Failure { seed: self.seed, trail: self.trail.clone(), message, states }
        })
    }

    /// Counts a state, if it is a new one.
    pub fn is_new(&self, key: u64, phase: Phase, depth: usize, crash: Crash) -> bool {
        self.shared.count(key, phase, depth, crash)
    }

    /// Whether enough was found.
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Relaxed)
    }
}
