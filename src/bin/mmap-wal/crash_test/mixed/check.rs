//! Whether a log is what a mixed writer promised.

use mmap_wal::inspect::{Log, Stat, Verification};
use mmap_wal::{Error, Reader, Snapshot, TailState};

use crate::crash_test::check::{is_absent, near_rotation};
use crate::crash_test::mixed::Mix;
use crate::crash_test::mixed::ledger::{Ledger, Part, Seen};
use crate::crash_test::mixed::unit::{Name, Unit};
use crate::crash_test::rounds::Setup;
use crate::failure::sentence_of;

/// How much of a payload is shown.
const SHOWN: usize = 60;

/// What was found in a log.
#[derive(Clone, Copy, Default)]
pub(crate) struct Checked {
    /// How many records were compared.
    pub(crate) records: u64,
    /// Whether the log ended near an end of a segment, or in a rotation.
    pub(crate) near_rotation: bool,
}

/// A record that was not acknowledged.
struct Extra {
    seq: u64,
    tag: u16,
    payload: Vec<u8>,
}

/// What is there must be what `ledger` says, and whole units that were under way when the writer was killed. These are
/// promised from now on.
///
/// A reader looks first, and everything must verify; if `recover`, or if there is no log, an open for writing must then
/// find the same.
pub(crate) fn check(setup: &Setup, mix: &Mix, ledger: &mut Ledger, recover: bool) -> Result<Checked, String> {
    let mut checked = Checked::default();
    let read = match read(setup) {
        // Killed before the log was there.
        Err(e) if !ledger.exists() && is_absent(&e) => None,
        other => Some(other.map_err(|e| format!("reading it: {}", sentence_of(&e)))?),
    };
    if let Some((snapshot, stat, verified)) = &read {
        is_whole(verified, snapshot.last_seq())?;
        checked.records = compare(ledger, snapshot)?;
        checked.near_rotation = near_rotation(stat);
    }
    if recover || read.is_none() {
        drop(read);
        checked.records += reopen(setup, mix, ledger)?;
    }
    Ok(checked)
}

fn read(setup: &Setup) -> Result<(Snapshot, Stat, Verification), Error> {
    let log = Log::open(&setup.dir)?;
    Ok((Reader::open(&setup.dir)?.snapshot()?, log.stat()?, log.verify(|_| {})?))
}

fn is_whole(verified: &Verification, last_seq: u64) -> Result<(), String> {
    match verified.damages.first() {
        Some(damage) => Err(format!("verifying it: {}", sentence_of(damage))),
        None if verified.last_seq != Some(last_seq) => {
            Err(format!("a reader saw records up to {last_seq}, a verification up to {:?}", verified.last_seq))
        }
        None => Ok(()),
    }
}

/// Recovers the log, which must show what the reader saw, and closes it; after that nothing is torn.
fn reopen(setup: &Setup, mix: &Mix, ledger: &mut Ledger) -> Result<u64, String> {
    let of_recovery = |e: &Error| format!("recovery: {}", sentence_of(e));
    let options = setup.log.options().background(mix.background.into());
    let wal = options.open(&setup.dir).map_err(|e| of_recovery(&e))?;
    if ledger.exists() && wal.positions().last != ledger.seen().last {
        let (reader, found) = (ledger.seen().last, wal.positions().last);
        return Err(format!("a reader saw records up to {reader}, recovery up to {found}"));
    }
    let records = compare(ledger, &wal.snapshot()).map_err(|e| format!("recovery: {e}"))?;
    wal.close().map_err(|e| format!("closing it: {}", sentence_of(&e)))?;
    let (snapshot, _, verified) = read(setup).map_err(|e| format!("after recovery: {}", sentence_of(&e)))?;
    is_whole(&verified, snapshot.last_seq())?;
    if verified.tail == Some(TailState::Torn) {
        return Err(format!("the log is torn behind record {} after it was recovered and closed", snapshot.last_seq()));
    }
    Ok(records)
}

/// Compares every record, and returns how many there are.
fn compare(ledger: &mut Ledger, snapshot: &Snapshot) -> Result<u64, String> {
    let seen = Seen { first: snapshot.first_seq(), last: snapshot.last_seq(), checkpoint: snapshot.checkpoint_seq() };
    ledger.settle(seen)?;
    let mut expected = seen.first;
    let (mut count, mut extras, mut unit) = (0, Vec::new(), None);
    for found in snapshot.replay(0).map_err(|e| sentence_of(&e))? {
        if let Some(next) = behind_gap(ledger, expected, &found) {
            expected = next;
            continue;
        }
        let found = found.map_err(|e| format!("replay at record {expected}: {}", sentence_of(&e)))?;
        if found.seq() != expected {
            return Err(format!("record {} comes where {expected} should", found.seq()));
        }
        match ledger.records().get(&expected) {
            Some(part) => is_part(ledger, &mut unit, *part, (expected, found.tag(), found.payload()))?,
            None => extras.push(Extra { seq: expected, tag: found.tag(), payload: found.payload().to_vec() }),
        }
        if extras.len() > ledger.most_new() {
            return Err(format!("record {expected} and many before it were never appended"));
        }
        (expected, count) = (expected + 1, count + 1);
    }
    if ledger.gaps().behind(expected) != seen.last + 1 {
        return Err(format!("replay ends before record {expected}, and {} is the last", seen.last));
    }
    explain(ledger, seen.first, &extras)?;
    Ok(count)
}

/// The number behind a gap that `found` says begins at `expected`, if a repair has left it.
fn behind_gap<T>(ledger: &Ledger, expected: u64, found: &Result<T, Error>) -> Option<u64> {
    match found {
        Err(Error::Gap { from, to }) if *from == expected && ledger.gaps().hold(*from, *to) => Some(to + 1),
        _ => None,
    }
}

/// The record must be this part of a unit; `unit` is the unit of the record before.
fn is_part(
    ledger: &Ledger,
    unit: &mut Option<(Name, Unit)>,
    part: Part,
    (seq, tag, payload): (u64, u16, &[u8]),
) -> Result<(), String> {
    let (_, unit) = match unit.take() {
        Some((name, same)) if name == part.name => unit.insert((name, same)),
        _ => unit.insert((part.name, ledger.source.unit(part.name))),
    };
    if unit.tag == tag && unit.records[part.at] == payload {
        return Ok(());
    }
    let (name, at) = (part.name, part.at + 1);
    Err(format!("record {seq} is not part {at} of {name}, as was promised, it came as {}", beginning(payload)))
}

/// Every record that was not acknowledged must belong to a whole unit that was under way.
fn explain(ledger: &mut Ledger, first_seq: u64, extras: &[Extra]) -> Result<(), String> {
    if let Some(extra) = extras.iter().find(|extra| !ledger.may_be_new(extra.seq)) {
        return Err(unexplained(extra, &[]));
    }
    let mut units = if extras.is_empty() { Vec::new() } else { ledger.under_way() };
    let mut rest = extras;
    while let Some(extra) = rest.first() {
        // Of the first unit that is left, a beginning may have been truncated.
        let skips = |unit: &Unit| if extra.seq == first_seq { unit.records.len() } else { 1 };
        let matching = units.iter().enumerate().find_map(|(index, (_, unit))| {
            (0..skips(unit)).find(|skip| is_unit(unit, *skip, rest)).map(|skip| (index, skip))
        });
        let Some((index, skip)) = matching else {
            return Err(unexplained(extra, &units));
        };
        let (name, unit) = units.remove(index);
        ledger.adopt(extra.seq, name, skip, unit.records.len())?;
        rest = &rest[unit.records.len() - skip..];
    }
    Ok(())
}

/// Whether `extras` begin with the records of `unit` from `skip` on.
fn is_unit(unit: &Unit, skip: usize, extras: &[Extra]) -> bool {
    let records = &unit.records[skip..];
    let is_next = |(at, (record, extra)): (usize, (&Vec<u8>, &Extra))| {
        extra.seq == extras[0].seq + at as u64 && extra.tag == unit.tag && extra.payload == *record
    };
    records.len() <= extras.len() && records.iter().zip(extras).enumerate().all(is_next)
}

fn unexplained(extra: &Extra, units: &[(Name, Unit)]) -> String {
    let Extra { seq, payload, .. } = extra;
    let torn = units.iter().find(|(_, unit)| unit.records.len() > 1 && unit.records.contains(payload));
    match torn {
        Some((name, unit)) => {
            let count = unit.records.len();
            format!("a part of a batch is there: record {seq} is of {name}, whose {count} records are not all there")
        }
        None => format!("record {seq} should not be there, it came as {}", beginning(payload)),
    }
}

fn beginning(payload: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&payload[..payload.len().min(SHOWN)]);
    format!("{} bytes that begin with {shown:?}", payload.len())
}

#[cfg(test)]
mod tests {
    //! That every kind of loss is noticed: a check that cannot fail would prove nothing.
    use super::*;
    use crate::crash_test::mixed::Hosted;
    use crate::crash_test::mixed::line::Line;
    use crate::crash_test::mixed::unit::Source;
    use crate::parse::{LogArgs, Mode};
    use mmap_wal::Wal;
    use std::io::IoSlice;
    use std::time::Duration;

    const MIX: Mix = Mix { threads: 2, truncate: true, cut: true, background: Hosted::Caller, repair: false };
    /// The first units of both threads are single records.
    const SEED: u64 = 8;

    /// A log that is written here, and what is promised of it.
    struct Story {
        dir: tempfile::TempDir,
        setup: Setup,
        ledger: Ledger,
        wal: Wal,
    }

    fn source() -> Source {
        Source { seed: SEED, segment_size: 16 << 10 }
    }

    fn name(thread: u32, counter: u64) -> Name {
        Name { round: 1, thread, counter }
    }

    /// The first batch of a thread.
    fn batch_of(thread: u32) -> u64 {
        (0..).find(|counter| source().shape(name(thread, *counter)).count > 1).unwrap()
    }

    impl Story {
        fn begin() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let log = LogArgs {
                sync_mode: Mode::None,
                sync_records: 1,
                sync_delay: Duration::from_millis(1),
                segment_size: 16 << 10,
            };
            let (path, within) = (dir.path().join("log"), Duration::ZERO);
            let setup = Setup {
                name: "none".to_owned(),
                dir: path.clone(),
                log,
                batch: None,
                mix: Some(MIX),
                rounds: 1,
                lines: 1000,
                within,
                seed: SEED,
            };
            let mut ledger = Ledger::new(source(), MIX.threads);
            ledger.begin(1);
            let wal = setup.log.options().open(path).unwrap();
            Self { dir, setup, ledger, wal }
        }

        fn hear(&mut self, line: Line) {
            self.ledger.hear(line).unwrap();
        }

        /// Appends a unit whole, and returns its last number.
        fn append(&self, thread: u32, counter: u64) -> u64 {
            let Unit { tag, records, .. } = source().unit(name(thread, counter));
            match records.as_slice() {
                [record] => self.wal.append_tagged(tag, &[IoSlice::new(record)]).unwrap(),
                records => self.wal.append_batch(records).unwrap().last().unwrap(),
            }
        }

        fn promise(&mut self, seq: u64, thread: u32, counter: u64) {
            self.hear(Line::Acked { seq, thread, counter });
        }

        /// Appends and promises the units of a thread up to `counter`, and returns the last number.
        fn append_up_to(&mut self, thread: u32, counter: u64) -> u64 {
            let mut last = self.wal.positions().last;
            for counter in 0..=counter {
                let next = last + 1;
                last = self.append(thread, counter);
                self.promise(next, thread, counter);
            }
            last
        }

        /// Ends the writer and checks.
        fn check(self) -> Result<(Checked, Self), String> {
            let Self { dir, setup, mut ledger, wal } = self;
            drop(wal);
            let checked = check(&setup, &MIX, &mut ledger, true)?;
            let wal = setup.log.options().open(&setup.dir).unwrap();
            Ok((checked, Self { dir, setup, ledger, wal }))
        }

        fn refusal(self) -> String {
            self.check().map(|(checked, _)| checked.records).unwrap_err()
        }
    }

    #[test]
    fn what_was_promised_and_whole_units_under_way_are_as_they_should_be() {
        let mut story = Story::begin();
        let last = story.append_up_to(0, 20);
        let shown = story.append(1, 0).max(story.append(0, 21));
        let (checked, mut story) = story.check().unwrap();
        assert_eq!((checked.records, story.ledger.adopted()), (2 * shown, shown - last));
        // What was shown once is promised.
        story.wal.truncate_back(last).unwrap();
        assert!(story.ledger.hear(Line::Opened { first: 1, last, checkpoint: 0 }).is_err());
        assert!(story.refusal().starts_with(&format!("{} records are lost", shown - last)));
    }

    #[test]
    fn a_record_too_few_is_a_loss() {
        let mut story = Story::begin();
        let last = story.append_up_to(0, 9);
        story.promise(last + 1, 1, 0);
        let refusal = story.refusal();
        assert!(refusal.contains("records are lost") && refusal.contains("unit 0 of thread 1"), "{refusal}");
    }

    #[test]
    fn a_log_that_is_gone_is_a_loss() {
        let mut story = Story::begin();
        story.hear(Line::Opened { first: 1, last: 0, checkpoint: 0 });
        std::fs::remove_dir_all(&story.setup.dir).unwrap();
        assert!(story.refusal().starts_with("reading it"));
    }

    #[test]
    fn a_number_that_is_given_twice_is_noticed() {
        let mut story = Story::begin();
        story.promise(1, 0, 0);
        assert!(story.ledger.hear(Line::Acked { seq: 1, thread: 1, counter: 0 }).is_err());
    }

    #[test]
    fn another_record_than_was_promised_is_noticed() {
        let mut story = Story::begin();
        story.append(1, 5);
        story.promise(1, 0, 0);
        assert!(story.refusal().starts_with("record 1 is not part 1 of unit 0 of thread 0"));
    }

    #[test]
    fn a_record_of_nobody_is_noticed() {
        let mut story = Story::begin();
        let last = story.append_up_to(0, 3);
        // Not the next unit of that thread.
        story.append(1, 1);
        assert!(story.refusal().starts_with(&format!("record {} should not be there", last + 1)));
    }

    #[test]
    fn a_part_of_a_batch_is_noticed() {
        for missing in [0, 1] {
            let mut story = Story::begin();
            let counter = batch_of(0);
            story.append_up_to(0, counter - 1);
            let records = source().unit(name(0, counter)).records;
            let rest = records.len() - 1;
            let part = if missing == 0 { &records[1..] } else { &records[..rest] };
            story.wal.append_batch(part).unwrap();
            let refusal = story.refusal();
            assert!(refusal.starts_with("a part of a batch is there"), "{refusal}");
        }
    }

    #[test]
    fn a_truncation_is_made_when_it_was_said_and_one_or_the_other_before() {
        for (is_begun, is_done, is_made) in [(true, true, false), (false, false, true), (true, false, false)] {
            let mut story = Story::begin();
            let last = story.append_up_to(0, 9);
            let up_to = last / 2;
            if is_begun {
                story.hear(Line::Checkpoint(up_to));
                story.hear(Line::Front(up_to));
            }
            if is_done {
                story.hear(Line::CheckpointDone(up_to));
                story.hear(Line::FrontDone(up_to));
            }
            if is_made {
                story.wal.checkpoint(up_to).unwrap();
                story.wal.truncate_front(up_to).unwrap();
            }
            if is_begun && !is_done {
                // Neither is yet, then one is, and the next open must find them so.
                let (_, mut story) = story.check().unwrap();
                story.hear(Line::Checkpoint(up_to));
                story.wal.checkpoint(up_to).unwrap();
                let (_, mut story) = story.check().unwrap();
                story.hear(Line::Front(up_to));
                story.wal.truncate_front(up_to).unwrap();
                let (_, mut story) = story.check().unwrap();
                story.hear(Line::Opened { first: up_to + 1, last, checkpoint: up_to });
                assert!(story.check().is_ok());
            } else {
                let refusal = story.refusal();
                assert!(refusal.contains("is the first, and"), "{refusal}");
            }
        }
    }

    #[test]
    fn a_checkpoint_that_was_said_to_be_set_is_missed() {
        let mut story = Story::begin();
        story.append_up_to(0, 9);
        story.hear(Line::Checkpoint(3));
        story.hear(Line::CheckpointDone(3));
        assert_eq!(story.refusal(), "the checkpoint is 0, and 3 was set");
    }

    #[test]
    fn what_was_cut_off_must_not_come_back() {
        let mut story = Story::begin();
        let after = story.append_up_to(0, 4);
        let last = story.append_up_to(1, 4);
        story.hear(Line::Back(after));
        let (_, mut story) = story.check().unwrap();
        assert_eq!(story.ledger.seen().last, last, "it was begun, and not made");
        story.hear(Line::Back(after));
        story.hear(Line::BackDone(after));
        let refusal = story.refusal();
        assert!(refusal.starts_with(&format!("record {} should not be there", after + 1)), "{refusal}");
    }

    #[test]
    fn what_is_given_the_numbers_that_were_cut_off_is_what_must_be_there() {
        let mut story = Story::begin();
        let after = story.append_up_to(0, 4);
        story.append_up_to(1, 4);
        story.wal.truncate_back(after).unwrap();
        story.hear(Line::Back(after));
        let (_, mut story) = story.check().unwrap();
        assert_eq!(story.ledger.seen().last, after, "it was made, and not said");
        story.append(0, 5);
        story.promise(after + 1, 0, 5);
        assert!(story.check().is_ok());
    }

    #[test]
    fn a_cut_into_a_batch_is_refused_and_one_behind_it_is_not() {
        let mut story = Story::begin();
        let last = story.append_up_to(0, batch_of(0));
        assert!(story.ledger.hear(Line::BackDone(last - 1)).is_err());
        assert!(story.ledger.hear(Line::BackRefused(last - 1)).is_ok());
        assert!(story.ledger.hear(Line::BackRefused(last)).is_err());
    }

    #[test]
    fn a_reset_drops_everything_or_nothing() {
        let mut story = Story::begin();
        let last = story.append_up_to(0, 9);
        story.hear(Line::Reset(last + 10));
        let (_, mut story) = story.check().unwrap();
        story.wal.reset(last + 10).unwrap();
        story.hear(Line::Reset(last + 10));
        let (checked, mut story) = story.check().unwrap();
        assert_eq!(checked.records, 0);
        story.hear(Line::Reset(last + 20));
        story.hear(Line::ResetDone(last + 20));
        assert!(story.refusal().contains("is the first, and"));
    }
}
