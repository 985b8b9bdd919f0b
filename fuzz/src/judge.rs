//! Looks at a directory in every way there is, and holds what it sees against the independent parser.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use mmap_wal::inspect::{Log, Prefix};
use mmap_wal::{Background, Error, Options, Reader, Snapshot, SyncMode, TailState, Wal};

use crate::bounds::bounded;
use crate::directory::Directory;
use crate::fixture::{SMALLEST, Seeded, files_of, log_files_of, ordinal, rec, verdict, write_files};
use crate::reference::segment::frames;
use crate::reference::{Files, Parsed, Rec, Tail, Verdict, manifest, parse};

/// What is known of a log besides its files: whether these records may be shown, where nothing was repaired or where what
/// is lost may have been left out.
pub type Truth<'a> = &'a dyn Fn(&[Rec], Repaired) -> Result<(), String>;

/// Whether a log was repaired.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    No,
    Yes,
}

/// What a replay shows: records, the numbers left out, and the error that ended it.
type Shown = (Vec<Rec>, Vec<(u64, u64)>, Option<Error>);

struct Judge<'a> {
    place: &'a Path,
    directory: &'a Directory,
    parsed: Parsed,
    /// Bytes in the directory.
    size: usize,
    /// Numbers so near the end of their range that the log cannot go on.
    extreme: bool,
    /// The manifest says that the log was closed: nothing behind its end is looked at then, and nothing made zero, so
    /// that what a lie leaves there is met after the next kill.
    closed: bool,
    truth: Truth<'a>,
}

/// Writes `directory` to `place`, looks at it and goes on with it.
///
/// # Errors
/// What is not as it should be.
pub fn judge(place: &Path, directory: &Directory, truth: Truth<'_>) -> Result<(), String> {
    directory.write(place);
    if directory.files.values().map(|bytes| cost(bytes)).sum::<usize>() > MOST {
        return endure(place, directory, truth);
    }
    let judge = Judge {
        place,
        directory,
        parsed: parse(&directory.files),
        size: directory.files.values().map(Vec::len).sum(),
        extreme: is_extreme(&directory.files),
        closed: named(&directory.files).is_some_and(|manifest| manifest.clean_offset != 0),
        truth,
    };
    judge.read().map_err(|e| format!("a reader: {e}"))?;
    judge.inspect().map_err(|e| format!("an examiner: {e}"))?;
    judge.write().map_err(|e| format!("a writer: {e}"))?;
    judge.repair().map_err(|e| format!("a repair: {e}"))
}

/// Bytes that the parser would hash, which looks at every offset and remembers nothing, in one pass over a segment.
fn cost(segment: &[u8]) -> usize {
    let header = |at: usize| segment.get(at..at + 24);
    let len = |header: &[u8]| u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let offsets = (8192..segment.len()).step_by(8).filter_map(|at| Some((at, header(at)?)));
    let passes = |at: usize, header: &[u8]| {
        header[8..16] != [0; 8] && header[20] <= 1 && header[21] == 0 && len(header) <= segment.len() - at - 24
    };
    offsets.filter(|(at, header)| passes(*at, header)).map(|(_, header)| len(header)).sum()
}

/// More than this is too much for the parser.
const MOST: usize = 1 << 20;

/// Looks at a log that the parser would be long about: within bounds, and the same twice.
fn endure(place: &Path, directory: &Directory, truth: Truth<'_>) -> Result<(), String> {
    let size = directory.files.values().map(Vec::len).sum();
    let read = bounded("a reader", size, || Reader::open(place).and_then(|reader| reader.snapshot()));
    let seen = read.as_ref().ok().map(|snapshot| shown(snapshot).0);
    drop(read);
    if let Ok(log) = Log::open(place) {
        let (stat, _) = (bounded("stat", size, || log.stat()), bounded("verify", size, || log.verify(|_| {})));
        for ordinal in stat.iter().flat_map(|stat| &stat.segments).map(|segment| segment.ordinal) {
            bounded("frames", size, || log.frames(ordinal).map(Iterator::count)).map_err(text)?;
        }
        let looked = (bounded("prefix", size, || log.prefix()), bounded("a plan", size, || log.plan_repair()));
        if seen.is_some() && looked.0.is_err() {
            return Err("a log that can be read has no prefix".into());
        }
    }
    let options = Options::new().create(false).sync_mode(SyncMode::None).segment_size(SMALLEST);
    let open = || bounded("open", size, || options.clone().background(Background::Caller).open(place));
    let (Some(seen), Ok(wal)) = (seen, open()) else { return Ok(()) };
    truth(&seen, Repaired::No)?;
    let first = shown(&wal.snapshot()).0;
    drop(wal);
    let second = shown(&open().map_err(text)?.snapshot()).0;
    if first == seen && second == seen { Ok(()) } else { Err("what is shown changes".into()) }
}

/// The manifest, as the parser reads it.
fn named(files: &Files) -> Option<manifest::Manifest> {
    manifest::decode(files.get("MANIFEST")?).ok()
}

fn is_extreme(files: &Files) -> bool {
    let Some(manifest) = named(files) else { return false };
    let of_entries = manifest.entries.iter().flat_map(|entry| [entry.ordinal, entry.base_seq, entry.last_seq]);
    of_entries.chain([manifest.generation, manifest.first_seq]).any(|number| number > (1 << 63) - 1000)
}

fn shown(snapshot: &Snapshot) -> Shown {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    match snapshot.replay(0) {
        Err(e) => return (records, gaps, Some(e)),
        Ok(replay) => {
            for record in replay {
                match record {
                    Ok(record) => records.push(rec(record)),
                    Err(Error::Gap { from, to }) => gaps.push((from, to)),
                    Err(e) => return (records, gaps, Some(e)),
                }
            }
        }
    }
    (records, gaps, None)
}

fn text(e: Error) -> String {
    e.to_string()
}

impl Judge<'_> {
    fn bounded<T>(&self, what: &str, call: impl FnOnce() -> T) -> T {
        bounded(what, self.size, call)
    }

    /// Whether a refusal by the system is an answer.
    fn may_refuse(&self, error: &Error) -> bool {
        matches!(error, Error::Io(_)) && (self.directory.is_odd() || self.extreme)
    }

    /// `error` should be what the parser says.
    fn same_verdict(&self, error: &Error, expected: &Verdict) -> Result<(), String> {
        let same = match (expected, error) {
            // There is no log, and nobody asked to make one.
            (Verdict::NoLog, Error::Io(_)) => true,
            // What is no regular file may be one of a log that cannot be read now.
            (Verdict::NoLog, Error::NoManifest { .. }) => !self.directory.odd.is_empty(),
            _ => verdict(error).as_ref() == Some(expected) || self.may_refuse(error),
        };
        if same { Ok(()) } else { Err(format!("{error}, should be {expected:?}")) }
    }

    fn should_not_open(&self) -> String {
        format!("opened, should be {:?}", self.parsed.verdict)
    }

    fn is_ok(&self) -> bool {
        matches!(self.parsed.verdict, Verdict::Ok { .. })
    }

    fn read(&self) -> Result<(), String> {
        let opened = self.bounded("a reader", || Reader::open(self.place).and_then(|reader| reader.snapshot()));
        match opened {
            Ok(snapshot) if self.is_ok() => self.same_records(&snapshot),
            Ok(_) => Err(self.should_not_open()),
            Err(e) => self.same_verdict(&e, &self.parsed.verdict),
        }
    }

    /// A snapshot shows what the parser shows, up to the same damage.
    fn same_records(&self, snapshot: &Snapshot) -> Result<(), String> {
        let parsed = &self.parsed;
        self.bounded("a replay", || snapshot.replay(0).map(|replay| replay.filter(Result::is_ok).count())).ok();
        let (records, gaps, error) = shown(snapshot);
        if (snapshot.first_seq(), snapshot.last_seq()) != (parsed.first_seq, parsed.last_seq) {
            let found = (snapshot.first_seq(), snapshot.last_seq());
            return Err(format!("shows {found:?}, should be {:?}", (parsed.first_seq, parsed.last_seq)));
        }
        (self.truth)(&records, Repaired::No)?;
        let damage = error.as_ref().map(|e| verdict(e).ok_or(format!("replay failed: {e}"))).transpose()?;
        if damage != parsed.sealed_damage {
            return Err(format!("replay met {damage:?}, should be {:?}", parsed.sealed_damage));
        }
        if records != parsed.records {
            let at = records.iter().zip(&parsed.records).position(|(a, b)| a != b);
            let counts = (records.len(), parsed.records.len());
            return Err(format!("{} records, should be {}; first difference {at:?}", counts.0, counts.1));
        }
        // Behind damage no gap is met.
        if !parsed.gaps.starts_with(&gaps) || (damage.is_none() && gaps != parsed.gaps) {
            return Err(format!("gaps {gaps:?}, should be {:?}", parsed.gaps));
        }
        self.look_up(snapshot)
    }

    fn look_up(&self, snapshot: &Snapshot) -> Result<(), String> {
        let records = &self.parsed.records;
        for expected in records.iter().take(2).chain(records.last()) {
            match snapshot.get(expected.seq) {
                Ok(Some(record)) if rec(record) == *expected => {}
                other => return Err(format!("{}: {other:?}", expected.seq)),
            }
        }
        Ok(())
    }

    fn inspect(&self) -> Result<(), String> {
        let log = match Log::open(self.place) {
            Ok(log) => log,
            Err(e) => return self.same_verdict(&e, &self.parsed.verdict),
        };
        match self.bounded("stat", || log.stat()) {
            Err(e) => self.same_verdict(&e, &self.parsed.verdict)?,
            Ok(stat) => {
                self.same_end("stat", Some(stat.last_seq), Some(stat.tail), stat.cut.map(|c| (c.segment, c.offset)))?
            }
        }
        if let Err(e) = self.bounded("live", || log.live()) {
            return if self.may_refuse(&e) { Ok(()) } else { Err(e.to_string()) };
        }
        let found = match self.bounded("verify", || log.verify(|_| {})) {
            Err(e) => return self.same_verdict(&e, &self.parsed.verdict),
            Ok(found) => found,
        };
        if found.tail.is_some() {
            self.same_damages(&found)?;
        } else if self.is_ok() {
            return Err(format!("verify: {:?}", found.damages));
        }
        self.frames(&log)?;
        self.prefix(&self.bounded("prefix", || log.prefix()).map_err(text)?)
    }

    fn same_damages(&self, found: &mmap_wal::inspect::Verification) -> Result<(), String> {
        // The end can be judged where a sealed segment is missing, which an open refuses.
        let missing = matches!(self.parsed.verdict, Verdict::Missing { .. });
        let parsed = &self.parsed;
        let whole = self.is_ok() && parsed.sealed_damage.is_none();
        // It also reads what a truncation hides, and the header of what holds no record.
        let is_unread =
            |entry: &manifest::Entry| entry.is_sealed() && entry.last_seq < parsed.first_seq.max(entry.base_seq);
        let reads_more = named(&self.directory.files).is_some_and(|manifest| manifest.entries.iter().any(is_unread));
        if found.damages.is_empty() != whole && !(whole && reads_more) {
            return Err(format!("verify: {:?}, should be {:?}", found.damages, parsed.sealed_damage));
        }
        let cut = found.cut.map(|cut| (cut.segment, cut.offset));
        if missing { Ok(()) } else { self.same_end("verify", found.last_seq, found.tail, cut) }
    }

    fn same_end(
        &self,
        what: &str,
        last_seq: Option<u64>,
        tail: Option<TailState>,
        cut: Option<(u64, u64)>,
    ) -> Result<(), String> {
        let Verdict::Ok { tail: expected, cut_ordinal, cut_offset } = self.parsed.verdict else {
            return Err(format!("{what}: {}", self.should_not_open()));
        };
        let expected_tail = match expected {
            Tail::Clean => TailState::Clean,
            Tail::Torn => TailState::Torn,
            Tail::EarlierLife => TailState::EarlierLife,
        };
        let expected_cut = (expected == Tail::Torn).then_some((cut_ordinal, cut_offset));
        let expected = (Some(self.parsed.last_seq), Some(expected_tail), expected_cut);
        let found = (last_seq, tail, cut);
        if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, should be {expected:?}")) }
    }

    /// The frames that verify are frames for the parser too, in the order of the file.
    fn frames(&self, log: &Log) -> Result<(), String> {
        let named = log.ordinals().map_err(text)?;
        let strays = self.directory.files.keys().filter_map(|name| ordinal(Path::new(name)));
        for ordinal in named.iter().copied().chain(strays) {
            let listed =
                self.bounded("frames", || log.frames(ordinal).map(|frames| frames.map(|f| f.verifies).count()));
            let (Ok(_), Ok(frames_there)) = (listed, log.frames(ordinal)) else { continue };
            let bytes = &self.directory.files[&crate::fixture::segment(ordinal)];
            let salt = self.salt_of(ordinal);
            let mut end = 0;
            for frame in frames_there {
                if frame.offset < end {
                    return Err(format!("frame {} of {ordinal} begins before {end}", frame.offset));
                }
                end = frame.offset + 8;
                if let (true, Some(salt)) = (frame.verifies && frame.seq != 0, salt) {
                    let there = frames(bytes, salt, frame.offset as usize).next();
                    let same = there.is_some_and(|other| {
                        (other.at as u64, other.seq, other.payload) == (frame.offset, frame.seq, &frame.payload[..])
                    });
                    if !same {
                        return Err(format!("frame {} of {ordinal} is none for the parser", frame.offset));
                    }
                }
            }
        }
        Ok(())
    }

    /// The salt that the manifest has for a segment.
    fn salt_of(&self, ordinal: u64) -> Option<u32> {
        let manifest = named(&self.directory.files)?;
        manifest.entries.iter().find(|entry| entry.ordinal == ordinal).map(|entry| entry.salt)
    }

    fn prefix(&self, prefix: &Prefix) -> Result<(), String> {
        let readable = self.is_ok();
        match (&prefix.damage, &prefix.snapshot) {
            (None, Some(snapshot)) if readable => self.same_records(snapshot),
            (Some(_), snapshot) if !readable => {
                let records = snapshot.as_ref().map(|snapshot| shown(snapshot).0).unwrap_or_default();
                let from_front = records.iter().all(|record| record.seq >= self.parsed.first_seq);
                let rising = records.windows(2).all(|pair| pair[0].seq < pair[1].seq);
                (self.truth)(&records, Repaired::No)?;
                if from_front && rising { Ok(()) } else { Err("prefix: numbers are out of order".into()) }
            }
            (Some(e), _) if self.may_refuse(e) => Ok(()),
            (damage, _) => Err(format!("prefix: {damage:?}")),
        }
    }

    fn options(&self) -> Options {
        Options::new()
            .create(self.directory.create)
            .segment_size(SMALLEST + u64::from(self.directory.pages) * 4096)
            .sync_mode(SyncMode::None)
            .background(Background::Caller)
    }

    fn open(&self, options: &Options) -> Result<Wal, Error> {
        self.bounded("open", || options.open_observed(self.place, Some(Arc::new(Seeded::default()))))
    }

    /// Opens the log and goes on with it.
    fn write(&self) -> Result<(), String> {
        let before = log_files_of(self.place);
        if self.directory.strict && matches!(self.parsed.verdict, Verdict::Ok { tail: Tail::Torn, .. }) {
            match self.open(&self.options().strict(true)) {
                Err(Error::TornTail(_)) => self.nothing_written(&before)?,
                Err(e) if self.may_refuse(&e) => return Ok(()),
                other => return Err(format!("a torn end was opened strictly: {:?}", other.map(drop))),
            }
        }
        let wal = match self.open(&self.options()) {
            Err(e) if self.may_refuse(&e) => return Ok(()),
            Err(e) => {
                self.same_verdict(&e, &self.parsed.verdict)?;
                return self.nothing_written(&before);
            }
            Ok(wal) if self.parsed.verdict == Verdict::NoLog && self.directory.create => {
                return if wal.recovery().created { Ok(()) } else { Err("nothing was opened".into()) };
            }
            Ok(wal) => wal,
        };
        let report = wal.recovery();
        let cut = report.cut.map(|cut| (cut.segment, cut.offset));
        self.same_end("open", Some(report.last_seq), Some(report.tail), cut)?;
        self.same_records(&wal.snapshot())?;
        self.go_on(wal)
    }

    /// Mends what is damaged: everything that could be shown is there, nothing else than was there is, and the log goes on.
    fn repair(&self) -> Result<(), String> {
        let whole = self.is_ok() && self.parsed.sealed_damage.is_none();
        if whole || self.extreme || !self.directory.odd.is_empty() {
            return Ok(());
        }
        self.directory.write(self.place);
        let Ok(log) = Log::open(self.place) else { return Ok(()) };
        let before = match log.prefix() {
            Ok(Prefix { snapshot: Some(snapshot), .. }) => shown(&snapshot).0,
            _ => Vec::new(),
        };
        let files = log_files_of(self.place);
        let plan = self.bounded("a plan", || log.plan_repair());
        self.nothing_written(&files)?;
        // Not every manifest can be made anew of what the segments say.
        let Ok(plan) = plan else { return Ok(()) };
        let repaired = log.repair(&plan).and_then(|()| log.plan_repair());
        drop(log);
        let opened = repaired.and_then(|again| Ok((again, self.open(&self.options())?)));
        let (again, wal) = match opened {
            // Where a segment contradicts itself, a repair may find no way out; where bytes were damaged, it does.
            Err(_) if self.directory.crafted => return Ok(()),
            opened => opened.map_err(|e| format!("{e}, after: {plan}"))?,
        };
        let (records, _, error) = shown(&wal.snapshot());
        (self.truth)(&records, Repaired::Yes)?;
        if !records.windows(2).all(|pair| pair[0].seq < pair[1].seq) {
            return Err(format!("numbers are out of order, after: {plan}"));
        }
        let kept: HashSet<&Rec> = records.iter().collect();
        let lost = before.iter().find(|rec| !kept.contains(rec));
        if !self.directory.crafted && (error.is_some() || lost.is_some() || !again.is_empty()) {
            return Err(format!("{error:?}, {lost:?} could be shown before, {again}, after: {plan}"));
        }
        let seq = wal.append(b"goes on").map_err(text)?;
        let last = records.last().map_or(0, |rec| rec.seq);
        if seq > last { Ok(()) } else { Err(format!("the append got {seq} behind {last}")) }
    }

    fn nothing_written(&self, before: &Files) -> Result<(), String> {
        if log_files_of(self.place) == *before { Ok(()) } else { Err("an open that failed has written".into()) }
    }

    /// Ends the life of a log: by a close, or as a kill would, which leaves the files as they are.
    fn end(&self, wal: Wal, kill: bool) -> Result<(), String> {
        let left = (kill && !self.closed && self.directory.odd.is_empty()).then(|| files_of(self.place));
        wal.close().map_err(text)?;
        drop(wal);
        left.iter().for_each(|files| write_files(self.place, files));
        Ok(())
    }

    /// What was recovered once is recovered again, an append works, and it is there again too.
    fn go_on(&self, wal: Wal) -> Result<(), String> {
        let first = shown(&wal.snapshot()).0;
        self.end(wal, self.directory.strict)?;
        let wal = match self.open(&self.options().strict(true)) {
            Err(e) if self.may_refuse(&e) => return Ok(()),
            other => other.map_err(|e| format!("the second open: {e}"))?,
        };
        if shown(&wal.snapshot()).0 != first {
            return Err("the second open shows something else".into());
        }
        let seq = match wal.append(b"goes on") {
            Err(e) if self.may_refuse(&e) => return Ok(()),
            other => other.map_err(|e| format!("an append: {e}"))?,
        };
        if seq != self.parsed.last_seq + 1 {
            return Err(format!("the append got {seq} behind {}", self.parsed.last_seq));
        }
        self.end(wal, true)?;
        let wal = match self.open(&self.options().strict(true)) {
            Err(e) if self.may_refuse(&e) => return Ok(()),
            other => other.map_err(|e| format!("the third open: {e}"))?,
        };
        let appended = Rec { seq, tag: 0, payload: b"goes on".to_vec() };
        match wal.snapshot().get(seq).map_err(text)?.map(rec) {
            Some(found) if found == appended => Ok(()),
            other => Err(format!("the append is {other:?}")),
        }
    }
}
