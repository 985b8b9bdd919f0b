//! The campaign with threads: writers, one who takes records away, and the log's own thread under the model checker; the
//! power fails, or the process dies, at any act and between any two steps; what is left is opened and held against the
//! [`ledger`](super::ledger).

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mmap_wal::{Background, Wal};
use shuttle::FailurePersistence;

use super::campaign::{Failure, Histogram, scratch_dir};
use super::crew::{Crew, Moment};
use super::image::{Doubts, Image};
use super::life::{LOG, check_parsed, shown};
use super::machine::Phase;
use super::model::{Crash, Shown};
use super::order::{self, Order, Seeds};
use super::rng::{Rng, mix};
use crate::reference;

/// How far a campaign goes.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// Stop when so many distinct states were opened.
    pub states: usize,
    /// Or after so many seeds.
    pub seeds: u64,
    pub threads: usize,
}

#[derive(Default)]
struct Found {
    keys: HashSet<u64>,
    histogram: Histogram,
    failure: Option<Failure>,
}

struct Shared {
    campaign: Campaign,
    seeds: Arc<Seeds>,
    found: Mutex<Found>,
}

impl Campaign {
    /// Runs the seeds from `first` on.
    pub fn run(self, first: u64) -> Result<Histogram, Failure> {
        let end = first.saturating_add(self.seeds);
        let seeds = Seeds { next: AtomicU64::new(first), end, stopped: AtomicBool::new(false) };
        let shared = Arc::new(Shared { campaign: self, seeds: Arc::new(seeds), found: Mutex::default() });
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                let shared = &shared;
                scope.spawn(move || shared.work());
            }
        });
        let mut found = shared.found();
        found.failure.take().map_or_else(|| Ok(std::mem::take(&mut found.histogram)), Err)
    }
}

impl Shared {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(self: &Arc<Self>) {
        let base = scratch_dir();
        let order = Order::new(&self.seeds);
        let current = Arc::clone(&order.current);
        let (shared, path, seed) = (Arc::clone(self), base.path().to_owned(), Arc::clone(&current));
        let history = move || {
            let seed = seed.load(Ordering::Relaxed);
            let mut explorer = Explorer { shared: &shared, base: &path, seed, roots: 0, trail: Vec::new() };
            match explorer.history() {
                Ok(()) => shared.found().histogram.seeds += 1,
                Err(message) => shared.fail(seed, explorer.trail, message),
            }
        };
        if let Err(message) = order::run(order, FailurePersistence::None, history) {
            self.fail(current.load(Ordering::Relaxed), Vec::new(), message);
        }
    }

    fn fail(&self, seed: u64, trail: Vec<String>, message: String) {
        self.seeds.stopped.store(true, Ordering::Relaxed);
        let mut found = self.found();
        let states = found.keys.len();
        found.failure.get_or_insert(Failure { seed, trail, message, states });
    }

    /// Counts a state; whether it is a new one.
    fn count(&self, key: u64, phase: Phase, crash: Crash) -> bool {
        let mut found = self.found();
        let is_new = found.keys.insert(key);
        if is_new {
            *found.histogram.states.entry(phase).or_default() += 1;
            found.histogram.process_crashes += usize::from(crash == Crash::Process);
        }
        if found.keys.len() >= self.campaign.states {
            self.seeds.stopped.store(true, Ordering::Relaxed);
        }
        is_new
    }
}

struct Explorer<'a> {
    shared: &'a Shared,
    base: &'a Path,
    seed: u64,
    roots: u64,
    trail: Vec<String>,
}

impl Explorer<'_> {
    /// Lets the crew live, and looks at every crash that was noted.
    fn history(&mut self) -> Result<(), String> {
        let mut rng = Rng::new(mix(self.seed));
        let root = self.make_root();
        let crew = Crew::new(&root, &mut rng);
        self.trail.push(crew.to_string());
        let lived = crew.live();
        std::fs::remove_dir_all(&root).map_err(|e| e.to_string())?;
        lived?;
        for moment in crew.moments() {
            if self.shared.seeds.stopped.load(Ordering::Relaxed) {
                break;
            }
            self.power_loss(&crew, &moment, &mut rng)?;
            if rng.one_in(2) {
                let what = format!("the process dies before {}", moment.before);
                self.crash(&crew, &moment, &moment.disk.live_image(), Crash::Process, what, &mut rng)?;
            }
        }
        Ok(())
    }

    fn power_loss(&mut self, crew: &Crew, moment: &Moment, rng: &mut Rng) -> Result<(), String> {
        let doubts = Doubts::of(&moment.disk);
        for choice in doubts.choices(4, 4, rng) {
            let what = format!("power fails before {}; reached the disk: {choice:?}", moment.before);
            self.crash(crew, moment, &doubts.image(&choice), Crash::Power, what, rng)?;
        }
        Ok(())
    }

    fn crash(
        &mut self,
        crew: &Crew,
        moment: &Moment,
        image: &Image,
        crash: Crash,
        what: String,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let expected = crew.ledger().digest(moment.at, crash);
        if !self.shared.count(mix(image.digest() ^ expected.rotate_left(1)), moment.phase, crash) {
            return Ok(());
        }
        let root = self.make_root();
        image.materialise(&root).map_err(|e| e.to_string())?;
        let checked = self.check(crew, moment, image, crash, &root, rng.one_in(8));
        std::fs::remove_dir_all(&root).map_err(|e| e.to_string())?;
        checked.inspect_err(|_| {
            self.trail.push(format!("{:?}, at {}: {what}", moment.phase, moment.at));
            self.trail.push(format!("{:?}", crew.ledger()));
        })
    }

    fn check(
        &self,
        crew: &Crew,
        moment: &Moment,
        image: &Image,
        crash: Crash,
        root: &Path,
        goes_on: bool,
    ) -> Result<(), String> {
        let parsed = reference::parse(&image.files_in(LOG));
        let options = crew.options().background(Background::Caller);
        let open = || options.open(root.join(LOG)).map_err(|e| format!("the log cannot be opened: {e}"));
        let wal = open()?;
        let look = |wal: &Wal| shown(&wal.snapshot(), wal.positions().durable, wal.meta().to_vec());
        let found = look(&wal)?;
        crew.ledger().check(&found, moment.at, crash)?;
        check_parsed(&parsed, &found, &wal, true)?;
        *self.shared.found().histogram.tails.entry(wal.recovery().tail.as_str()).or_default() += 1;
        if !goes_on {
            return Ok(());
        }
        let seq = wal.append(b"after the crash").map_err(|e| e.to_string())?;
        wal.close().map_err(|e| e.to_string())?;
        let again = look(&open()?)?;
        let same = again.records.split_last().is_some_and(|(last, before)| last.0 == seq && before == found.records);
        if same && seq == found.last + 1 { Ok(()) } else { Err(differs(&found, &again)) }
    }

    fn make_root(&mut self) -> std::path::PathBuf {
        let root = self.base.join(self.roots.to_string());
        self.roots += 1;
        // An order that was given up has left its own.
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).expect("a directory for a simulated disk");
        root
    }
}

fn differs(found: &Shown, again: &Shown) -> String {
    format!("opened once it showed {found:?}, and a record and a close later {again:?}")
}
