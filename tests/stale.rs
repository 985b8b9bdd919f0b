//! Proves that a MANIFEST which is older than the segments is not believed: of the MANIFEST at every step of scripted
//! lives, in every sync mode, put alone into the directory that the life left behind. Every call refuses and changes no
//! byte, and a repair brings every record back and gives no number twice; or, where version 1 cannot know, the log opens
//! with every record. Does not prove that a crash is never taken for such a MANIFEST: that is `power_loss`.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fixture::{FRAMES_AT, SMALLEST, files_of, log_files_of, ordinal, replayed, scratch, segment, write_files};
use mmap_wal::inspect::Log;
use mmap_wal::{Background, Error, Options, Reader, SyncMode, Wal};
use reference::manifest::{Entry, Kind, Manifest, decode};
use reference::segment::Segment;
use reference::{Files, Verdict, parse};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many records of so many bytes.
    Append(usize, usize),
    Batch(usize),
    /// Removes all but so many records at the front.
    FrontTo(u64),
    /// Cuts so many records off.
    Back(u64),
    /// Goes on so many numbers further.
    Reset(u64),
    Checkpoint,
    Meta,
    Sync,
    Reopen,
    /// The process is killed, and another opens the log.
    Kill,
}

use Step::{Append, Back, Batch, Checkpoint, FrontTo, Kill, Meta, Reopen, Reset, Sync};

/// How the life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    /// The power fails: of what was not synced, nothing has reached the disk. Only for `SyncMode::Sync`.
    PowerLost,
}

struct Life {
    options: Options,
    dir: tempfile::TempDir,
    wal: Option<Wal>,
    records: BTreeMap<u64, Vec<u8>>,
    appended: u64,
    /// Segments that were there when the log was opened last.
    opened: BTreeSet<String>,
    /// What was done before, and the MANIFEST after it.
    manifests: Vec<(String, Vec<u8>)>,
}

impl Life {
    fn begin(options: &Options) -> Self {
        let mut life = Self {
            options: options.clone(),
            dir: scratch(),
            wal: None,
            records: BTreeMap::new(),
            appended: 0,
            opened: BTreeSet::new(),
            manifests: Vec::new(),
        };
        life.open();
        life.note("creation");
        life
    }

    fn open(&mut self) {
        self.wal = Some(self.options.open(self.dir.path()).expect("the log"));
        self.opened = files_of(self.dir.path()).into_keys().collect();
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("an open log")
    }

    fn note(&mut self, what: &str) {
        let bytes = std::fs::read(self.dir.path().join("MANIFEST")).expect("the manifest");
        self.manifests.push((what.to_owned(), bytes));
    }

    fn payload(&mut self, len: usize) -> Vec<u8> {
        self.appended += 1;
        format!("{:0len$}", self.appended).into_bytes()
    }

    fn step(&mut self, step: Step) {
        let positions = self.wal().positions();
        match step {
            Append(count, len) => {
                for i in 0..count {
                    let payload = self.payload(len);
                    let seq = self.wal().append(&payload).expect("an append");
                    self.records.insert(seq, payload);
                    if i + 1 < count {
                        self.note(&format!("record {seq}"));
                    }
                }
            }
            Batch(len) => {
                let payloads = [self.payload(len), self.payload(len), self.payload(len)];
                let seqs = self.wal().append_batch(&payloads).expect("a batch");
                self.records.extend(seqs.iter().zip(payloads));
            }
            FrontTo(left) => {
                let up_to = positions.last.saturating_sub(left);
                self.wal().truncate_front(up_to).expect("a truncation");
                self.records.retain(|seq, _| *seq > up_to);
            }
            Back(count) => {
                let after = positions.last - count;
                self.wal().truncate_back(after).expect("a cut");
                self.records.retain(|seq, _| *seq <= after);
            }
            Reset(count) => {
                self.wal().reset(positions.last + count).expect("a reset");
                self.records.clear();
            }
            Checkpoint => self.wal().checkpoint(positions.last).expect("a checkpoint"),
            Meta => self.wal().set_meta(&self.appended.to_le_bytes()).expect("metadata"),
            Sync => drop(self.wal().sync().expect("a sync")),
            Reopen => {
                self.wal.take().expect("an open log").close().expect("a close");
                self.note("close");
                self.open();
            }
            Kill => {
                let files = files_of(self.dir.path());
                let next = scratch();
                write_files(next.path(), &files);
                self.wal = None;
                self.dir = next;
                self.open();
            }
        }
        self.note(&format!("{step:?}"));
    }

    fn end(mut self, end: End) -> Dead {
        let mut files = files_of(self.dir.path());
        match end {
            End::Closed => {
                self.wal.take().expect("an open log").close().expect("a close");
                files = files_of(self.dir.path());
            }
            End::Killed => {}
            End::PowerLost => {
                // What says that something is durable is synced by an open and a close alone.
                for (name, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with(".wal")) {
                    if !self.opened.contains(name) {
                        [4096, 4224, 4736].into_iter().for_each(|at| bytes[at..at + 16].fill(0));
                    }
                }
            }
        }
        Dead { options: self.options, files, records: self.records, manifests: self.manifests }
    }
}

/// What a life leaves.
struct Dead {
    options: Options,
    files: Files,
    records: BTreeMap<u64, Vec<u8>>,
    manifests: Vec<(String, Vec<u8>)>,
}

fn newest(bytes: &[u8]) -> Manifest {
    decode(bytes).expect("a manifest")
}

/// What came of a MANIFEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Stale,
    Missing,
    Corrupt,
    Opened,
}

fn found<T>(result: &Result<T, Error>) -> Result<Found, String> {
    match result {
        Ok(_) => Ok(Found::Opened),
        Err(Error::StaleManifest(_)) => Ok(Found::Stale),
        Err(Error::MissingSegment(_)) => Ok(Found::Missing),
        Err(Error::Corrupt(_)) => Ok(Found::Corrupt),
        Err(e) => Err(format!("{e}")),
    }
}

impl Dead {
    /// Puts an older manifest into the directory, and says what is wrong with what comes of it.
    fn restore(&self, manifest: &[u8]) -> Result<Found, String> {
        let dir = scratch();
        let files: Files = self.files.clone().into_iter().chain([("MANIFEST".to_owned(), manifest.to_vec())]).collect();
        write_files(dir.path(), &files);
        let before = log_files_of(dir.path());
        let came = self.calls_agree(dir.path())?;
        let parsed = parse(&files);
        let opened = self.options.open(dir.path());
        if found(&opened)? != came {
            return Err(format!("a reader finds {came:?}, and the writer {:?}", found(&opened)?));
        }
        let expected = match &parsed.verdict {
            Verdict::Stale => Found::Stale,
            Verdict::Missing { .. } => Found::Missing,
            Verdict::Corrupt { .. } => Found::Corrupt,
            Verdict::Ok { .. } => Found::Opened,
            other => return Err(format!("the reference parser says {other:?}")),
        };
        if expected != came {
            return Err(format!("{came:?}, and the reference parser says {expected:?}"));
        }
        match opened {
            Ok(wal) => {
                self.is_whole(&wal)?;
                drop(wal);
                self.is_whole(&self.options.open(dir.path()).map_err(|e| format!("the second open: {e}"))?)?;
            }
            Err(_) => {
                if log_files_of(dir.path()) != before {
                    return Err("a refusal has changed the files".to_owned());
                }
                self.repair(dir.path())?;
            }
        }
        Ok(came)
    }

    /// Every call that reads says the same.
    fn calls_agree(&self, dir: &Path) -> Result<Found, String> {
        let reader = Reader::open(dir).map_err(|e| format!("no reader: {e}"))?;
        let log = Log::open(dir).map_err(|e| format!("no log: {e}"))?;
        let came = found(&reader.snapshot())?;
        let copy = scratch();
        let to = copy.path().join("copy");
        let mut others = vec![
            ("tail", found(&reader.tail(0))?),
            ("stat", found(&log.stat())?),
            ("copy", found(&log.copy(&to, 0, |_| {}))?),
        ];
        match (came, log.verify(|_| {})) {
            (Found::Stale, verified) => others.push(("verify", found(&verified)?)),
            (_, verified) => {
                let damages = verified.map_err(|e| format!("no verification: {e}"))?.damages;
                if damages.is_empty() != (came == Found::Opened) {
                    return Err(format!("{came:?}, and a verification finds {damages:?}"));
                }
            }
        }
        match (came, log.prefix()) {
            (Found::Stale, prefix) => others.push(("prefix", found(&prefix)?)),
            (_, prefix) => drop(prefix.map_err(|e| format!("no prefix: {e}"))?),
        }
        // A tail and a copy meet damage in a sealed segment only when they come to it.
        match others.iter().find(|(_, other)| *other != came) {
            Some((name, other)) => Err(format!("a reader finds {came:?}, and {name} {other:?}")),
            None => Ok(came),
        }
    }

    fn repair(&self, dir: &Path) -> Result<(), String> {
        let log = Log::open(dir).map_err(|e| format!("no log: {e}"))?;
        let plan = log.plan_repair().map_err(|e| format!("no plan: {e}"))?;
        log.repair(&plan).map_err(|e| format!("no repair: {e}"))?;
        let again = log.plan_repair().map_err(|e| format!("no second plan: {e}"))?;
        if !again.is_empty() {
            return Err(format!("after a repair there is more to repair: {again}"));
        }
        let wal = self.options.open(dir).map_err(|e| format!("a repaired log cannot be opened: {e}\n{plan}"))?;
        self.is_whole(&wal).map_err(|e| format!("after a repair: {e}\n{plan}"))
    }

    /// Every record that the life left is there, and the next number is above all of them.
    fn is_whole(&self, wal: &Wal) -> Result<(), String> {
        let shown = replayed(&wal.snapshot());
        if let Some(e) = shown.error {
            return Err(format!("a replay ends: {e}"));
        }
        let shown: BTreeMap<u64, Vec<u8>> =
            shown.records.into_iter().map(|record| (record.seq, record.payload)).collect();
        if let Some((seq, _)) = self.records.iter().find(|(seq, payload)| shown.get(seq) != Some(payload)) {
            let seqs: Vec<u64> = shown.keys().copied().collect();
            return Err(format!("record {seq} is lost or another one; shown are {seqs:?}"));
        }
        let next = wal.append(b"next").map_err(|e| format!("no append: {e}"))?;
        match self.records.last_key_value() {
            Some((last, _)) if next <= *last => Err(format!("number {next} is given twice")),
            _ => Ok(()),
        }
    }

    /// Whether segments hold records of the log and `older` does not name them.
    fn has_unnamed_records(&self, older: &[u8]) -> bool {
        let (older, now) = (newest(older), newest(&self.files["MANIFEST"]));
        let is_named = |ordinal, salt| older.entries.iter().any(|entry| (entry.ordinal, entry.salt) == (ordinal, salt));
        let holds = |entry: &&Entry| {
            let bytes = &self.files[&segment(entry.ordinal)];
            entry.kind() != Kind::Spare && Segment { entry, bytes }.frame(FRAMES_AT as usize).is_some()
        };
        now.entries.iter().filter(holds).any(|entry| !is_named(entry.ordinal, entry.salt))
    }
}

/// Restores every manifest of a life; how often what came of it.
fn live_and_restore(options: &Options, steps: &[Step], end: End) -> BTreeMap<Found, usize> {
    let mut life = Life::begin(options);
    steps.iter().for_each(|step| life.step(*step));
    let dead = life.end(end);
    let whole = dead.restore(&dead.files["MANIFEST"].clone());
    assert_eq!(whole, Ok(Found::Opened), "{steps:?} {end:?}: the manifest of the end");
    let mut came = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (at, (what, manifest)) in dead.manifests.iter().enumerate() {
        if !seen.insert(manifest) {
            continue;
        }
        let found = dead.restore(manifest).unwrap_or_else(|e| panic!("{steps:?} {end:?}: {at}, after {what}: {e}"));
        if dead.has_unnamed_records(manifest) {
            assert_eq!(found, Found::Stale, "{steps:?} {end:?}: {at}, after {what}");
        }
        *came.entry(found).or_insert(0) += 1;
    }
    came
}

fn modes() -> [SyncMode; 3] {
    let delay = std::time::Duration::from_secs(3600);
    [SyncMode::Sync, SyncMode::Batch { records: 5, delay }, SyncMode::None]
}

fn options(mode: SyncMode, spares: usize) -> Options {
    let options = Options::new().segment_size(SMALLEST).background(Background::Caller);
    options.sync_mode(mode).spare_segments(spares)
}

const LIVES: &[&[Step]] = &[
    // Nothing but rotations.
    &[Append(30, 600)],
    &[Append(3, 600), Reopen, Append(3, 600), Reopen, Append(20, 600)],
    &[Append(4, 600), Kill, Append(9, 600), Kill, Append(9, 600)],
    // One record to a segment, and records that need segments of their own.
    &[Append(6, 3900)],
    &[Append(2, 600), Append(2, 9000), Append(3, 600), Append(1, 20_000), Append(9, 600)],
    &[Append(1, 9000), Append(5, 600), Back(2), Append(1, 9000), Append(5, 600), Reopen, Append(1, 9000)],
    // The front is taken away.
    &[Append(12, 600), FrontTo(3), Append(12, 600), FrontTo(3), Append(4, 600)],
    &[Append(12, 600), FrontTo(0), Append(4, 600), Reopen, Append(12, 600), FrontTo(2)],
    &[Append(40, 600), FrontTo(1)],
    // The back is cut off.
    &[Append(12, 600), Back(2), Append(2, 600), Back(3), Append(9, 600)],
    &[Append(20, 600), Back(12), Append(2, 600), Reopen, Append(2, 600)],
    &[Append(20, 600), Back(12), Append(1, 600), Back(1), Append(1, 600), Back(1), Append(3, 600)],
    &[Append(3, 600), Reopen, Append(2, 600), Back(4), Append(1, 600)],
    &[Append(9, 600), Sync, Back(1), Append(1, 600), Back(1), Append(12, 600), FrontTo(4)],
    // All of it goes.
    &[Append(9, 600), Reset(1), Append(9, 600)],
    &[Append(9, 600), Reset(1000), Append(2, 600), Reset(1000), Append(2, 600)],
    &[Append(2, 600), Reopen, Reset(7), Append(1, 600), Reopen, Append(20, 600)],
    // What the manifest says beside the segments.
    &[Append(2, 600), Checkpoint, Meta, Append(1, 600), Checkpoint, Meta],
    &[Append(9, 600), Checkpoint, Back(5), Append(9, 600), Meta, Batch(900), Batch(900)],
    // Opened and closed, and nothing else.
    &[Append(3, 600), Reopen, Reopen, Kill, Reopen],
    &[Reopen, Append(1, 600), Reopen, Append(1, 600)],
];

/// The scripted lives in one mode.
fn scripted(mode: SyncMode) {
    let mut came: BTreeMap<Found, usize> = BTreeMap::new();
    for spares in [1, 3] {
        for steps in LIVES {
            for end in ends(mode) {
                for (found, count) in live_and_restore(&options(mode, spares), steps, end) {
                    *came.entry(found).or_insert(0) += count;
                }
            }
        }
    }
    println!("{mode:?}: {came:?}");
    assert!(came[&Found::Stale] > 300, "{came:?}");
}

fn ends(mode: SyncMode) -> Vec<End> {
    let all = [End::Closed, End::Killed, End::PowerLost];
    all.into_iter().filter(|end| *end != End::PowerLost || mode == SyncMode::Sync).collect()
}

#[test]
fn an_older_manifest_is_refused_or_loses_nothing_in_sync_mode() {
    scripted(modes()[0]);
}

#[test]
fn an_older_manifest_is_refused_or_loses_nothing_in_batch_mode() {
    scripted(modes()[1]);
}

#[test]
fn an_older_manifest_is_refused_or_loses_nothing_in_none_mode() {
    scripted(modes()[2]);
}

/// Lives that nobody has thought of: so many as `MMAP_WAL_STALE_LIVES` says.
#[test]
fn an_older_manifest_of_a_random_life_is_refused_or_loses_nothing() {
    let lives = std::env::var("MMAP_WAL_STALE_LIVES").map_or(12, |count| count.parse().expect("a number"));
    for seed in 0..lives {
        let mut state: u64 = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed + 1);
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mode, spares) = (modes()[draw(3) as usize], 1 + draw(3) as usize);
        let lens = [40, 600, 1300, 3900, 9000];
        let mut steps = vec![Append(3, 600)];
        for _ in 0..3 + draw(9) {
            let (count, len) = (1 + draw(7), lens[draw(5) as usize]);
            let step = match draw(12) {
                0..=4 => Append(count as usize, len),
                5 => Batch(len.min(1300)),
                6 => FrontTo(draw(6)),
                // A cut within the last batch is refused: it follows single records.
                7 => {
                    steps.push(Append(4, len));
                    Back(1 + draw(3))
                }
                8 => Reset(1 + draw(3) * 500),
                9 => Reopen,
                10 => Kill,
                _ => [Checkpoint, Meta, Sync][draw(3) as usize],
            };
            steps.push(step);
        }
        let ends = ends(mode);
        let end = ends[draw(ends.len() as u64) as usize];
        println!("seed {seed}: {mode:?}, {spares} spares, {steps:?}, {end:?}");
        live_and_restore(&options(mode, spares), &steps, end);
    }
}

/// The manifest of yesterday's backup of the closed log, whatever was done since.
#[test]
fn a_manifest_of_an_earlier_close_is_stale_once_records_were_appended() {
    for mode in modes() {
        for count in [1, 2, 80] {
            let options = options(mode, 1);
            let mut life = Life::begin(&options);
            life.step(Append(20, 100));
            life.step(Reopen);
            let closed = life.manifests.iter().rfind(|(what, _)| what == "close").expect("a close").1.clone();
            life.step(Append(count, 100));
            life.step(Sync);
            for end in [End::Closed, End::Killed] {
                let dead = Dead { ..life_as_dead(&life, end) };
                assert_eq!(dead.restore(&closed), Ok(Found::Stale), "{mode:?}, {count} records, {end:?}");
            }
        }
    }
}

/// What `life` would leave now.
fn life_as_dead(life: &Life, end: End) -> Dead {
    let dir = scratch();
    write_files(dir.path(), &files_of(life.dir.path()));
    if end == End::Closed {
        life.options.open(dir.path()).expect("the log").close().expect("a close");
    }
    Dead {
        options: life.options.clone(),
        files: files_of(dir.path()),
        records: life.records.clone(),
        manifests: life.manifests.clone(),
    }
}

/// The advice fits: the whole directory, or a repair.
#[test]
fn the_refusal_names_the_manifest_and_what_to_do() {
    let mut life = Life::begin(&options(SyncMode::Sync, 1));
    life.step(Append(5, 600));
    life.step(Reopen);
    let closed = life.manifests.iter().rfind(|(what, _)| what == "close").expect("a close").1.clone();
    life.step(Append(1, 600));
    let dead = life.end(End::Closed);
    let dir = scratch();
    write_files(dir.path(), &dead.files);
    std::fs::write(dir.path().join("MANIFEST"), closed).expect("a file");
    let sentence = dead.options.open(dir.path()).expect_err("a refusal").to_string();
    for part in ["MANIFEST", "older than the segments", "restore the whole directory", "repair"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    let plan = Log::open(dir.path()).and_then(|log| log.plan_repair()).expect("a plan");
    assert!(plan.to_string().contains("older"), "{plan}");
    assert!(plan.rebuilt.as_ref().is_some_and(|rebuilt| rebuilt.is_older), "{plan:?}");
}

/// Metadata, checkpoint and user tag are those of the older manifest, and not lost with it.
#[test]
fn a_repair_keeps_what_the_older_manifest_knows() {
    let tagged = options(SyncMode::Sync, 1).user_tag([7; 16]);
    let mut life = Life::begin(&tagged);
    [Append(9, 600), Checkpoint, Meta].into_iter().for_each(|step| life.step(step));
    let older = life.manifests.last().expect("a manifest").1.clone();
    life.step(Append(20, 600));
    let dead = life.end(End::Closed);
    let dir = scratch();
    write_files(dir.path(), &dead.files);
    std::fs::write(dir.path().join("MANIFEST"), older).expect("a file");
    let log = Log::open(dir.path()).expect("a log");
    let plan = log.plan_repair().expect("a plan");
    log.repair(&plan).expect("a repair");
    let wal = tagged.open(dir.path()).expect("the log, with its user tag");
    assert_eq!((wal.positions().checkpoint, &wal.meta()[..]), (9, &9_u64.to_le_bytes()[..]));
    dead.is_whole(&wal).expect("every record");
}

/// A file that may hold records is left where it is and told, whatever its name says.
#[test]
fn an_unnamed_file_that_may_hold_records_is_not_removed() {
    let mut life = Life::begin(&options(SyncMode::Sync, 1));
    life.step(Append(20, 600));
    let dead = life.end(End::Closed);
    let first = dead.files.keys().find(|name| name.ends_with(".wal")).expect("a segment").clone();
    let mut other = Life::begin(&options(SyncMode::Sync, 1));
    other.step(Append(3, 600));
    let foreign = other.end(End::Closed).files[&first].clone();
    let mut headless = dead.files[&first].clone();
    headless[..1024].fill(0xEE);
    let name = segment(77);
    for (bytes, stays) in [(foreign, true), (headless, true), (vec![0; SMALLEST as usize], false), (vec![], false)] {
        let dir = scratch();
        write_files(dir.path(), &dead.files);
        std::fs::write(dir.path().join(&name), &bytes).expect("a file");
        let stat = Log::open(dir.path()).and_then(|log| log.stat()).expect("a look");
        assert_eq!((stat.kept.contains(&name), stat.leftovers.contains(&name)), (stays, !stays));
        let wal = dead.options.open(dir.path()).expect("the log");
        dead.is_whole(&wal).expect("every record");
        drop(wal);
        assert_eq!(std::fs::read(dir.path().join(&name)).ok(), stays.then_some(bytes));
        assert_eq!(ordinal(Path::new(&name)), Some(77));
    }
}
