//! Histories that chance would hardly find, each with what must come of it.

use std::os::unix::fs::FileExt;
use std::path::Path;

use mmap_wal::{Background, Error, Options, SyncMode, TailState, Wal};

use super::campaign::scratch_dir;
use super::disk::Disk;
use super::history::{Life, Op, short};
use super::image::Doubts;
use super::life::{Start, Watch, live};
use super::machine::Moment;
use super::model::Crash;

const FIRST: &str = "00000000000000000001.wal";
const FRAMES: u64 = 8192;
const SECTOR: u64 = 512;

fn small(mode: SyncMode) -> Options {
    Options::new().background(Background::Caller).segment_size(16 << 10).sync_mode(mode)
}

/// The log in `from` as a crash of its process leaves it, with `len` bytes at `at` of `name` lost.
fn crashed(from: &Path, to: &Path, name: &str, at: u64, len: u64) {
    for entry in std::fs::read_dir(from).expect("the directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
    let file = std::fs::File::options().write(true).open(to.join(name)).expect("the file");
    file.write_all_at(&vec![0; len as usize], at).expect("the loss");
}

/// Both slots are whole after each update: what was acknowledged stands in either.
pub fn lost_slot() -> Result<(), String> {
    let dir = scratch_dir();
    let wal = small(SyncMode::Sync).open(dir.path()).expect("a new log");
    for seq in 1..=4 {
        wal.append(b"record").expect("an append");
        wal.checkpoint(seq).expect("a checkpoint");
        let slot_len = std::fs::metadata(dir.path().join("MANIFEST")).expect("the manifest").len() / 2;
        for slot in 0..2 {
            let copy = scratch_dir();
            crashed(dir.path(), copy.path(), "MANIFEST", slot * slot_len, slot_len);
            let found = small(SyncMode::Sync).open(copy.path()).map_err(|e| e.to_string())?.positions().checkpoint;
            if found != seq {
                return Err(format!("without slot {slot} the checkpoint is {found}, and {seq} was acknowledged"));
            }
        }
    }
    Ok(())
}

/// A record whose payload holds frames of another log, and whose first sector did not reach the disk.
pub fn frames_of_another_log() -> Result<(), String> {
    let (other, dir, copy) = (scratch_dir(), scratch_dir(), scratch_dir());
    let wal = small(SyncMode::Sync).open(other.path()).expect("another log");
    for _ in 0..40 {
        wal.append(&[7; 40]).expect("an append");
    }
    let segment = std::fs::read(other.path().join(FIRST)).expect("its segment");
    // They stand where they stood: behind a sector, a header, and what fills the next one up.
    let page = segment[(FRAMES + 2 * SECTOR) as usize..][..1280].to_vec();
    let wal = small(SyncMode::None).open(dir.path()).expect("a new log");
    let lost = FRAMES + append_a_sector(&wal);
    wal.append(&[vec![1; 488], page].concat()).expect("an append");
    crashed(dir.path(), copy.path(), FIRST, lost, SECTOR);
    ends_torn_at_one(copy.path())
}

/// A record that did not reach the disk, and a later one of the same segment that did, with a copy of it as payload.
pub fn copy_of_a_lost_frame() -> Result<(), String> {
    let (dir, copy) = (scratch_dir(), scratch_dir());
    let wal = small(SyncMode::None).open(dir.path()).expect("a new log");
    let lost = FRAMES + append_a_sector(&wal);
    wal.append(&[7; 488]).expect("an append");
    let frame = std::fs::read(dir.path().join(FIRST)).expect("the segment")[lost as usize..][..512].to_vec();
    wal.append(&frame).expect("an append");
    crashed(dir.path(), copy.path(), FIRST, lost, SECTOR);
    ends_torn_at_one(copy.path())
}

/// Appends a record whose frame is one sector long.
fn append_a_sector(wal: &Wal) -> u64 {
    wal.append(&[9; 488]).expect("an append");
    SECTOR
}

fn ends_torn_at_one(dir: &Path) -> Result<(), String> {
    let wal = small(SyncMode::Sync).open(dir).map_err(|e| format!("a mere crash is refused: {e}"))?;
    match (wal.recovery().tail, wal.positions().last) {
        (TailState::Torn, 1) => Ok(()),
        found => Err(format!("found {found:?}")),
    }
}

/// A creation dies at every act; another process creates the log and appends; the power fails.
pub fn killed_creation() -> Result<(), String> {
    let once = |start: &Start, ops: &[Op]| -> Result<Vec<Moment>, String> {
        let life = Life::of(ops.to_vec());
        live(scratch_dir().path(), start, &short(0).0, &life, 1, Watch::Always).map(|(moments, _)| moments)
    };
    for moment in once(&Start::nothing(), &[])? {
        let model = (*moment.model).clone();
        let killed = Start { disk: moment.disk, model, crash: Crash::Process, whole: true };
        let moments = once(&killed, &[Op::Append(40), Op::Sync])?;
        let Some(last) = moments.last() else { return Err("nothing was noted".to_owned()) };
        let doubts = Doubts::of(&last.disk);
        let nothing_more = doubts.image(&doubts.none());
        let start =
            Start { disk: Disk::of(&nothing_more), model: (*last.model).clone(), crash: Crash::Power, whole: false };
        once(&start, &[]).map_err(|message| format!("killed before: {}: {message}", moment.before))?;
    }
    Ok(())
}

/// The manifest of a log's first record is put back when the log has gone on in two further segments.
pub fn older_manifest() -> Result<(), String> {
    let dir = scratch_dir();
    let wal = small(SyncMode::Sync).open(dir.path()).expect("a new log");
    wal.append(&[1; 3000]).expect("an append");
    let older = std::fs::read(dir.path().join("MANIFEST")).expect("the manifest");
    let last = (0..12).map(|_| wal.append(&[2; 3000]).expect("an append")).last();
    wal.close().expect("a close");
    std::fs::write(dir.path().join("MANIFEST"), older).expect("the manifest of before");
    match small(SyncMode::Sync).open(dir.path()) {
        Err(Error::StaleManifest(_)) => Ok(()),
        Err(e) => Err(format!("refused, but: {e}")),
        Ok(wal) => Err(format!("it is believed: the log ends at {}, not {last:?}", wal.positions().last)),
    }
}

/// A file that is used again holds frames that were cut off, under the numbers and at the places of those to come.
pub fn frames_of_a_previous_generation() -> Result<(), String> {
    let (dir, crash) = (scratch_dir(), scratch_dir());
    let wal = small(SyncMode::Sync).open(dir.path()).expect("a new log");
    // Eight records fill a segment.
    let append = |of: u8, count: usize| (0..count).for_each(|_| assert!(wal.append(&[of; 1000]).is_ok()));
    append(1, 16);
    wal.truncate_back(8).expect("a cut");
    append(2, 1);
    // The file of the second segment is the spare that this cut goes on in.
    wal.maintain().expect("a spare");
    wal.truncate_back(8).expect("a cut");
    append(3, 1);
    if wal.stats().recycled == 0 {
        return Err("no file was used again".to_owned());
    }
    crashed(dir.path(), crash.path(), FIRST, FRAMES, 0);
    match small(SyncMode::Sync).open(crash.path()) {
        Ok(wal) if wal.positions().last == 9 => Ok(()),
        Ok(wal) => Err(format!("records that were cut are back: the log ends at {}", wal.positions().last)),
        Err(e) => Err(format!("refused: {e}")),
    }
}
