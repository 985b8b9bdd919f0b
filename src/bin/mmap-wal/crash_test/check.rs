//! What must hold of a log after its writer was killed.

use mmap_wal::inspect::{Log, SegmentRole, Stat};
use mmap_wal::{Error, Reader, Snapshot, Wal};

use crate::crash_test::rounds::Setup;
use crate::crash_test::source::record;
use crate::failure::sentence_of;

/// Where the frames of a segment begin.
const FRAMES_AT: u64 = 8192;
/// How near to an end of a segment, as a fraction of it, is near.
const NEAR: u64 = 20;

/// What was found in a log.
#[derive(Clone, Copy, Default)]
pub(crate) struct Checked {
    /// The last record.
    pub(crate) last_seq: u64,
    /// How many records were compared.
    pub(crate) records: u64,
    /// Whether the log ended near an end of a segment, or in a rotation.
    pub(crate) near_rotation: bool,
}

/// What is there must be exactly the records from 1 on, and at least those up to `promised`.
///
/// A reader looks first; if `recover`, or if there is no log, an open for writing must then find the same.
pub(crate) fn check(setup: &Setup, promised: u64, recover: bool) -> Result<Checked, String> {
    let read = match read(setup) {
        // Killed before the log was there.
        Err(e) if promised == 0 && is_absent(&e) => None,
        other => Some(other.map_err(|e| format!("reading it: {}", sentence_of(&e)))?),
    };
    let mut checked = Checked::default();
    if let Some((snapshot, stat)) = &read {
        checked.near_rotation = near_rotation(stat);
        checked.last_seq = compare(setup, snapshot, promised)?;
        checked.records = checked.last_seq;
    }
    if recover || read.is_none() {
        let wal = setup.log.options().open(&setup.dir).map_err(|e| format!("recovery: {}", sentence_of(&e)))?;
        let last_seq = compare(setup, &wal.snapshot(), promised)?;
        if last_seq != checked.last_seq {
            return Err(format!("a reader saw records up to {}, recovery up to {last_seq}", checked.last_seq));
        }
        checked.records += last_seq;
        close(&wal)?;
    }
    Ok(checked)
}

fn read(setup: &Setup) -> Result<(Snapshot, Stat), Error> {
    Ok((Reader::open(&setup.dir)?.snapshot()?, Log::open(&setup.dir)?.stat()?))
}

/// Whether there is no log.
pub(crate) fn is_absent(e: &Error) -> bool {
    matches!(e, Error::Io(failure) if failure.source.kind() == std::io::ErrorKind::NotFound)
}

fn close(wal: &Wal) -> Result<(), String> {
    wal.close().map_err(|e| format!("closing it: {}", sentence_of(&e)))
}

/// Compares every record with the one that was written; returns the last number.
fn compare(setup: &Setup, snapshot: &Snapshot, promised: u64) -> Result<u64, String> {
    let mut last_seq = 0;
    let mut expected = Vec::new();
    for found in snapshot.replay(0).map_err(|e| sentence_of(&e))? {
        let found = found.map_err(|e| format!("replay after record {last_seq}: {}", sentence_of(&e)))?;
        last_seq += 1;
        record(setup.seed, last_seq, &mut expected);
        if found.seq() != last_seq || found.payload() != expected {
            return Err(format!("record {last_seq} is not what was appended, it came as {found:?}"));
        }
    }
    if last_seq < promised {
        let lost = promised - last_seq;
        return Err(format!(
            "{lost} records are lost: up to {promised} were acknowledged or shown, {last_seq} is the last"
        ));
    }
    match setup.batch {
        Some(count) if last_seq % count != 0 && last_seq != setup.lines => {
            Err(format!("a part of a batch of {count} is there: {last_seq} is the last record"))
        }
        _ => Ok(last_seq),
    }
}

/// Whether the log ends near an end of a segment, or in a rotation.
pub(crate) fn near_rotation(stat: &Stat) -> bool {
    let is_near = |(end, capacity): (u64, u64)| {
        let (position, room) = (end - FRAMES_AT, capacity - FRAMES_AT);
        position < room / NEAR || position > room - room / NEAR
    };
    let active = stat.segments.iter().find(|segment| segment.role == SegmentRole::Active);
    stat.seal_pending || active.is_some_and(|segment| is_near((segment.end_offset, segment.capacity)))
}

#[cfg(test)]
mod tests {
    //! That a loss is noticed: a check that cannot fail would prove nothing.
    use super::*;
    use crate::parse::{LogArgs, Mode};
    use std::time::Duration;

    fn setup(dir: &std::path::Path, batch: Option<u64>) -> Setup {
        let log = LogArgs {
            sync_mode: Mode::None,
            sync_records: 1,
            sync_delay: Duration::from_millis(1),
            segment_size: 16 << 10,
        };
        let (name, dir) = ("none".to_owned(), dir.to_owned());
        Setup { name, dir, log, batch, mix: None, rounds: 1, lines: 1000, within: Duration::ZERO, seed: 7 }
    }

    fn write(setup: &Setup, numbers: std::ops::RangeInclusive<u64>) {
        let wal = setup.log.options().open(&setup.dir).unwrap();
        let mut line = Vec::new();
        for number in numbers {
            record(setup.seed, number, &mut line);
            wal.append(&line).unwrap();
        }
    }

    fn refusal(setup: &Setup, promised: u64) -> String {
        check(setup, promised, true).map(|checked| checked.last_seq).unwrap_err()
    }

    #[test]
    fn a_record_too_few_is_a_loss() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(dir.path(), None);
        write(&setup, 1..=200);
        assert!(check(&setup, 200, true).is_ok_and(|checked| checked.last_seq == 200 && checked.records == 400));
        assert!(refusal(&setup, 203).starts_with("3 records are lost"));
    }

    #[test]
    fn a_log_that_is_not_there_is_a_loss_if_anything_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(dir.path(), None);
        assert!(refusal(&setup, 1).starts_with("reading it"));
        assert!(check(&setup, 0, false).is_ok_and(|checked| checked.last_seq == 0));
    }

    #[test]
    fn another_record_or_a_part_of_a_batch_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let other = Setup { seed: 8, ..setup(dir.path(), None) };
        write(&other, 1..=30);
        assert!(refusal(&setup(dir.path(), None), 30).starts_with("record 1 is not what was appended"));
        let batches = |count| Setup { seed: 8, ..setup(dir.path(), Some(count)) };
        assert!(check(&batches(10), 30, false).is_ok());
        assert!(refusal(&batches(7), 30).starts_with("a part of a batch of 7"));
    }
}
