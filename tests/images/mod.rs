//! Logs as a crash or a close leaves them, and what is to be the same whoever opens one that was damaged.
#![allow(dead_code, missing_docs)]

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use mmap_wal::{Act, Background, Options, Reader, SyncMode, TailState, Wal};

use crate::fixture::{
    self, Before, FRAMES_AT, SMALLEST, compare, files_of, is_manifest, log_files_of, scratch, shown, write_files,
};
use crate::reference::{Files, Parsed, Rec, Tail, Verdict, parse};

/// A log as a crash or a close left it.
pub struct Image {
    pub name: &'static str,
    pub files: Files,
    /// Every record that was ever appended.
    pub appended: Vec<Rec>,
    /// Up to here everything is witnessed as durable.
    pub witnessed: u64,
}

/// A log that is written to, and what was appended.
struct Log {
    dir: tempfile::TempDir,
    wal: Wal,
    appended: Vec<Rec>,
}

pub fn options() -> Options {
    Options::new().segment_size(SMALLEST).sync_mode(SyncMode::None).background(Background::Caller)
}

fn frame_size(len: usize) -> usize {
    (24 + len).next_multiple_of(8)
}

impl Log {
    fn new(observer: Option<Arc<dyn mmap_wal::Observer>>) -> Self {
        let dir = scratch();
        let wal = options().open_observed(dir.path(), observer).expect("a new log");
        Self { dir, wal, appended: Vec::new() }
    }

    fn payload(seq: u64, len: usize) -> Vec<u8> {
        (0..len).map(|i| (seq as usize * 31 + i * 7) as u8).collect()
    }

    fn note(&mut self, payload: Vec<u8>) -> Vec<u8> {
        let seq = self.appended.len() as u64 + 1;
        self.appended.push(Rec { seq, tag: 0, payload: payload.clone() });
        payload
    }

    fn append(&mut self, len: usize) {
        let payload = self.note(Self::payload(self.appended.len() as u64 + 1, len));
        assert_eq!(self.wal.append(&payload).expect("an append"), self.appended.len() as u64);
    }

    fn append_batch(&mut self, lens: &[usize]) {
        let payloads: Vec<_> =
            lens.iter().map(|len| self.note(Self::payload(self.appended.len() as u64 + 1, *len))).collect();
        self.wal.append_batch(&payloads).expect("a batch");
    }

    /// Fills a segment up to `slack` bytes.
    fn fill(&mut self, slack: usize) {
        let lens = [0, 1, 7, 8, 9, 100, 333, 40, 500, 61, 24, 256];
        lens.iter().for_each(|len| self.append(*len));
        let batch = [3, 77, 0, 130];
        self.append_batch(&batch);
        let used: usize = lens.iter().chain(&batch).map(|len| frame_size(*len)).sum();
        self.append(SMALLEST as usize - FRAMES_AT as usize - used - slack - 24);
    }

    /// Two sealed segments, of which one is full to the last byte, and an active one in use.
    fn with_two_sealed(mut self) -> Self {
        self.fill(0);
        self.fill(24);
        self.append(100);
        self.append_batch(&[5, 0, 90]);
        self.append(300);
        self.wal.sync().expect("a sync");
        self.append(50);
        self.append(0);
        self
    }

    fn image(self, name: &'static str, files: Files, witnessed: u64) -> Image {
        Image { name, files, appended: self.appended, witnessed }
    }
}

pub fn closed() -> Image {
    let log = Log::new(None).with_two_sealed();
    log.wal.close().expect("a close");
    let (files, last) = (files_of(log.dir.path()), log.appended.len() as u64);
    log.image("closed", files, last)
}

pub fn killed() -> Image {
    let log = Log::new(None).with_two_sealed();
    let (files, durable) = (files_of(log.dir.path()), log.wal.positions().durable);
    assert_eq!(durable + 2, log.appended.len() as u64);
    log.image("killed", files, durable)
}

/// The first sync of the segment before is about to begin: the next one is begun and claims nothing.
pub fn rotated_and_not_synced() -> Image {
    let found = Arc::new(Mutex::new(None));
    let (taken, dir) = (Arc::clone(&found), Arc::new(Mutex::new(None)));
    let where_it_is = Arc::clone(&dir);
    let observer = Before::new(false, move |act| {
        if matches!(act, Act::SyncRange { .. }) {
            let dir: Option<std::path::PathBuf> = where_it_is.lock().expect("a lock").clone();
            taken.lock().expect("a lock").get_or_insert_with(|| files_of(&dir.expect("a directory")));
        }
        Ok(())
    });
    let mut log = Log::new(Some(observer.clone()));
    *dir.lock().expect("a lock") = Some(log.dir.path().to_owned());
    log = log.with_two_sealed();
    let durable = log.wal.positions().durable;
    log.append(3000);
    observer.arm(true);
    log.append(800);
    observer.arm(false);
    let files = found.lock().expect("a lock").take().expect("a sync of the segment before");
    log.image("rotated, nothing of it synced", files, durable)
}

/// The update that seals the segment before is about to be written; meanwhile the next one has been appended to.
pub fn rotated_and_not_sealed() -> Image {
    let ((at_gate, arrived), (go, release)) = (mpsc::channel(), mpsc::channel::<()>());
    let (at_gate, release) = (Mutex::new(at_gate), Mutex::new(release));
    let gate = Before::new(false, move |act| {
        if matches!(act, Act::Write { path, .. } if is_manifest(path)) {
            at_gate.lock().expect("a lock").send(()).expect("somebody waits");
            release.lock().expect("a lock").recv().expect("a release");
        }
        Ok(())
    });
    let mut log = Log::new(Some(gate.clone())).with_two_sealed();
    log.append(3000);
    gate.arm(true);
    let payload = log.note(Log::payload(log.appended.len() as u64 + 1, 800));
    let files = std::thread::scope(|scope| {
        let rotating = scope.spawn(|| log.wal.append(&payload).map(drop));
        arrived.recv().expect("the update");
        gate.arm(false);
        for len in [10, 200] {
            let seq = log.appended.len() as u64 + 1;
            let payload = Log::payload(seq, len);
            assert_eq!(log.wal.append(&payload).expect("an append"), seq);
            log.appended.push(Rec { seq, tag: 0, payload });
        }
        let files = files_of(log.dir.path());
        go.send(()).expect("the gate");
        rotating.join().expect("a thread").expect("an append");
        files
    });
    let witnessed = log.appended.len() as u64 - 2;
    log.image("rotated, not sealed", files, witnessed)
}

/// The sync of a batch is about to begin, and the sector of its last frame has not reached the disk.
pub fn torn_batch() -> Image {
    let found = Arc::new(Mutex::new(None));
    let (taken, dir) = (Arc::clone(&found), Arc::new(Mutex::new(None::<std::path::PathBuf>)));
    let where_it_is = Arc::clone(&dir);
    let observer = Before::new(false, move |act| {
        if matches!(act, Act::SyncRange { .. }) {
            let dir = where_it_is.lock().expect("a lock").clone();
            *taken.lock().expect("a lock") = dir.map(|dir| files_of(&dir));
        }
        Ok(())
    });
    let mut log = Log::new(Some(observer.clone()));
    *dir.lock().expect("a lock") = Some(log.dir.path().to_owned());
    log = log.with_two_sealed();
    log.wal.sync().expect("a sync");
    let durable = log.wal.positions().durable;
    observer.arm(true);
    log.append_batch(&[40, 0, 400, 20]);
    observer.arm(false);
    let mut files = found.lock().expect("a lock").take().expect("a sync");
    let active = files.get_mut(&fixture::segment(3)).expect("the active segment");
    let used = active.iter().rposition(|byte| *byte != 0).expect("frames");
    let frame = used / 8 * 8 + 8 - frame_size(20);
    active[frame..].fill(0);
    log.image("torn batch", files, durable)
}

fn expected_tail(tail: TailState) -> Tail {
    match tail {
        TailState::Clean => Tail::Clean,
        TailState::Torn => Tail::Torn,
        TailState::EarlierLife => Tail::EarlierLife,
        other => panic!("{other:?}"),
    }
}

/// Opens `files` for reading and for writing, and says what is not as the reference parser says, or lost, or made up.
pub fn check(image: &Image, dir: &Path, files: &Files, thorough: bool) -> Result<Parsed, String> {
    check_judged(dir, files, thorough, |parsed| nothing_is_lost_or_made_up(image, parsed))
}

/// Opens `files` for reading and for writing, and says what is not as the reference parser says.
pub fn check_judged(
    dir: &Path,
    files: &Files,
    thorough: bool,
    opened: impl FnOnce(&Parsed) -> Result<(), String>,
) -> Result<Parsed, String> {
    write_files(dir, files);
    let parsed = parse(files);
    read(dir, &parsed).map_err(|e| format!("reader: {e}"))?;
    let wal = match options().open(dir) {
        Err(e) => {
            if fixture::verdict(&e).as_ref() != Some(&parsed.verdict) {
                return Err(format!("writer: {e}, should be {:?}", parsed.verdict));
            }
            let before: Files =
                files.clone().into_iter().filter(|(name, _)| name != "LOCK" && name != "READERS").collect();
            return if log_files_of(dir) == before { Ok(parsed) } else { Err("a failed open wrote".into()) };
        }
        Ok(wal) => wal,
    };
    verdict_is(&wal, &parsed)?;
    compare(&wal.snapshot(), &parsed).map_err(|e| format!("writer: {e}"))?;
    opened(&parsed)?;
    if thorough {
        goes_on(dir, wal, &parsed)?;
    }
    Ok(parsed)
}

fn read(dir: &Path, parsed: &Parsed) -> Result<(), String> {
    match Reader::open(dir).and_then(|reader| reader.snapshot()) {
        Ok(snapshot) if matches!(parsed.verdict, Verdict::Ok { .. }) => compare(&snapshot, parsed),
        Ok(_) => Err(format!("opened, should be {:?}", parsed.verdict)),
        Err(e) if fixture::verdict(&e).as_ref() == Some(&parsed.verdict) => Ok(()),
        Err(e) => Err(format!("{e}, should be {:?}", parsed.verdict)),
    }
}

fn verdict_is(wal: &Wal, parsed: &Parsed) -> Result<(), String> {
    let Verdict::Ok { tail, cut_ordinal, cut_offset } = parsed.verdict else {
        return Err(format!("opened, should be {:?}", parsed.verdict));
    };
    let report = wal.recovery();
    let cut = report.cut.map(|cut| (cut.segment, cut.offset));
    let expected_cut = (tail == Tail::Torn).then_some((cut_ordinal, cut_offset));
    let same = expected_tail(report.tail) == tail && cut == expected_cut && report.last_seq == parsed.last_seq;
    if same { Ok(()) } else { Err(format!("{report}, should be {:?}", parsed.verdict)) }
}

fn nothing_is_lost_or_made_up(image: &Image, parsed: &Parsed) -> Result<(), String> {
    if let Some(wrong) = parsed.records.iter().find(|shown| image.appended.get(shown.seq as usize - 1) != Some(shown)) {
        return Err(format!("record {} was never appended so", wrong.seq));
    }
    let dense = parsed.records.iter().zip(1..).all(|(shown, seq)| shown.seq == seq);
    let kept = parsed.sealed_damage.is_some() || parsed.records.len() as u64 >= image.witnessed;
    let batches_whole = parsed.sealed_damage.is_some() || parsed.records.len() as u64 == parsed.last_seq;
    if dense && kept && batches_whole { Ok(()) } else { Err("a witnessed record is gone without an error".into()) }
}

/// What recovery kept is kept, and the log goes on behind it.
fn goes_on(dir: &Path, wal: Wal, parsed: &Parsed) -> Result<(), String> {
    let text = |e: mmap_wal::Error| e.to_string();
    let seq = wal.append(b"goes on").map_err(text)?;
    wal.close().map_err(text)?;
    let again = options().open(dir).map_err(text)?;
    let (records, _) = shown(&again.snapshot());
    let sealed_damage = parsed.sealed_damage.is_some();
    let same = records.len() == parsed.records.len() + usize::from(!sealed_damage)
        && records[..parsed.records.len()] == parsed.records
        && seq == parsed.last_seq + 1;
    if same { Ok(()) } else { Err("the log is another one after it was closed".into()) }
}
