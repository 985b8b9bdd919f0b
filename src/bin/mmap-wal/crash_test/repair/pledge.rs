//! What a repair is held to: that it loses nothing but what was hit, whenever it is killed.

use std::path::{Path, PathBuf};

use mmap_wal::Error;
use mmap_wal::inspect::{Log, RepairPlan};

use crate::crash_test::mixed::ledger::{Ledger, Seen};
use crate::crash_test::repair::damage::Damage;
use crate::crash_test::repair::files::Files;
use crate::failure::sentence_of;

/// A damaged log, and what the first plan has promised of it.
pub(crate) struct Pledge {
    dir: PathBuf,
    plan: RepairPlan,
    files: Files,
    /// What the manifest names, if there is one.
    ordinals: Option<Vec<u64>>,
}

/// How far a repair has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not a byte is another one.
    Untouched,
    /// There are files that the log does not know of; it is as before.
    Begun,
    /// The log is as repaired, and what it does not need any more may still be there.
    Repaired {
        /// Whether nothing is left to repair.
        whole: bool,
    },
}

impl Pledge {
    /// Plans the repair of what `damage` has left in `dir`, and makes `ledger` what must be there in the end.
    ///
    /// # Errors
    /// What the plan gives up and need not, or does not say.
    pub(crate) fn of(dir: &Path, damage: &Damage, ledger: &mut Ledger) -> Result<Self, String> {
        let (plan, ordinals) = survey(dir)?;
        hold_to_damage(&plan, damage, ledger)?;
        let Seen { first, last, checkpoint } = ledger.seen();
        let seen = Seen {
            first: plan.rebuilt.as_ref().map_or(first, |rebuilt| rebuilt.first_seq),
            last: plan.next_seq.map_or(last, |next| next - 1),
            checkpoint: if plan.rebuilt.is_some() { 0 } else { checkpoint },
        };
        ledger.repair(seen, &lost(&plan));
        let files = Files::of(dir).map_err(|e| format!("reading the files: {e}"))?;
        Ok(Self { dir: dir.to_owned(), plan, files, ordinals })
    }

    /// How many files the repair makes or sets aside.
    pub(crate) fn steps(&self) -> u32 {
        (self.plan.made.len() + self.plan.set_aside.len()).try_into().unwrap_or(u32::MAX)
    }

    /// Looks at what a repair has left that was killed or got through.
    ///
    /// # Errors
    /// What is lost by it: the log must be as before or as repaired, and no byte gone.
    pub(crate) fn look(&self) -> Result<State, String> {
        let now = Files::of(&self.dir).map_err(|e| format!("reading the files: {e}"))?;
        self.files.outlive(&now, &self.plan)?;
        let (plan, ordinals) = survey(&self.dir)?;
        if plan.is_empty() || ordinals != self.ordinals {
            if plan.rebuilt.is_some() || !plan.lost.is_empty() || plan.left_out > 0 {
                return Err(format!("the log is neither as before nor as repaired, its next repair would be:\n{plan}"));
            }
            return Ok(State::Repaired { whole: plan.is_empty() });
        }
        if promise(&plan) != promise(&self.plan) {
            return Err(format!("the first plan was:\n{}the next one is:\n{plan}", self.plan));
        }
        Ok(if self.files == now { State::Untouched } else { State::Begun })
    }

    /// What the repair, which got through, has set aside.
    ///
    /// # Errors
    /// Which file is not there as it was damaged.
    pub(crate) fn aside(&self) -> Result<Files, String> {
        let now = Files::of(&self.dir).map_err(|e| format!("reading the files: {e}"))?;
        now.aside(&self.plan, &self.files)
    }
}

fn survey(dir: &Path) -> Result<(RepairPlan, Option<Vec<u64>>), String> {
    let of_plan = |e: Error| format!("planning the repair: {}", sentence_of(&e));
    let log = Log::open(dir).map_err(of_plan)?;
    let ordinals = match log.ordinals() {
        Err(Error::NoManifest { .. }) => None,
        other => Some(other.map_err(of_plan)?),
    };
    Ok((log.plan_repair().map_err(of_plan)?, ordinals))
}

/// What a plan loses, and where the log begins and goes on.
fn promise(plan: &RepairPlan) -> (Vec<(u64, u64)>, Option<u64>, Option<u64>) {
    (lost(plan), plan.rebuilt.as_ref().map(|rebuilt| rebuilt.first_seq), plan.next_seq)
}

fn lost(plan: &RepairPlan) -> Vec<(u64, u64)> {
    plan.lost.iter().map(|lost| (lost.first_seq, lost.last_seq)).collect()
}

/// The plan must lose nothing that was not hit, give no number again, and name every file that it cannot trust.
fn hold_to_damage(plan: &RepairPlan, damage: &Damage, ledger: &Ledger) -> Result<(), String> {
    let seen = ledger.seen();
    let spared = |(first, last): (u64, u64)| {
        let mut records = ledger.records().range(first..=last);
        records.find(|(seq, _)| !damage.hit.contains(seq)).map(|(seq, part)| (*seq, part.name))
    };
    // A rebuilt manifest may let the log begin further back, and must not let it begin further on.
    let first_seq = plan.rebuilt.as_ref().map_or(seen.first, |rebuilt| rebuilt.first_seq);
    let dropped = (first_seq > seen.first).then(|| (seen.first, first_seq - 1));
    if let Some((seq, name)) = lost(plan).into_iter().chain(dropped).find_map(spared) {
        return Err(format!("record {seq} ({name}) was not hit and is to be given up:\n{plan}"));
    }
    if let Some(next) = plan.next_seq.filter(|next| *next <= seen.last) {
        return Err(format!("the number {next} is to be given again, and {} was the last:\n{plan}", seen.last));
    }
    if plan.rebuilt.is_some() != damage.manifest {
        return Err(format!("the MANIFEST is lost, or it is not, and the plan is:\n{plan}"));
    }
    // Without a manifest, a segment whose last record is damaged ends before it, and stays.
    let is_aside = |name: &String| damage.manifest || plan.set_aside.iter().any(|aside| aside.name == *name);
    if let Some(name) = damage.flipped.iter().find(|name| !is_aside(name)) {
        return Err(format!("{name} is damaged, and the plan is:\n{plan}"));
    }
    match damage.removed.iter().find(|ordinal| !damage.manifest && !plan.missing.contains(ordinal)) {
        Some(ordinal) => Err(format!("segment {ordinal} is missing, and the plan is:\n{plan}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    //! That every kind of loss is noticed: a check that cannot fail would prove nothing.
    use super::*;
    use crate::crash_test::mixed::check::check;
    use crate::crash_test::mixed::line::Line;
    use crate::crash_test::mixed::unit::{Name, Source};
    use crate::crash_test::mixed::{Hosted, Mix};
    use crate::crash_test::random::Random;
    use crate::crash_test::repair::damage::{Kind, MANIFEST};
    use crate::crash_test::repair::layout::Layout;
    use crate::crash_test::rounds::Setup;
    use crate::parse::{LogArgs, Mode};
    use mmap_wal::Wal;
    use std::fs;
    use std::io::IoSlice;
    use std::time::Duration;

    const MIX: Mix = Mix { threads: 1, truncate: true, cut: false, background: Hosted::Caller, repair: true };
    const SEED: u64 = 8;
    const SEGMENT: u64 = 12 << 10;

    /// A log that was written here and killed, and what is promised of it.
    struct Story {
        _dir: tempfile::TempDir,
        setup: Setup,
        ledger: Ledger,
        random: Random,
    }

    impl Story {
        /// A log of 150 units, of which the first records are truncated.
        fn begin(seed: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (sync_mode, sync_delay) = (Mode::Sync, Duration::from_millis(1));
            let setup = Setup {
                name: "sync".to_owned(),
                dir: dir.path().join("log"),
                log: LogArgs { sync_mode, sync_records: 1, sync_delay, segment_size: SEGMENT },
                batch: None,
                mix: Some(MIX),
                rounds: 1,
                lines: 1000,
                within: Duration::ZERO,
                seed: SEED,
            };
            let ledger = Ledger::new(Source { seed: SEED, segment_size: SEGMENT }, 1).remembering();
            let mut story = Self { _dir: dir, setup, ledger, random: Random::new(seed) };
            story.ledger.begin(1);
            let wal = story.open();
            (0..150).for_each(|counter| story.append(&wal, counter));
            wal.truncate_front(5).unwrap();
            [Line::Front(5), Line::FrontDone(5)].into_iter().for_each(|line| story.ledger.hear(line).unwrap());
            drop(wal);
            story.check(false).unwrap();
            story
        }

        fn open(&self) -> Wal {
            self.setup.log.options().open(&self.setup.dir).unwrap()
        }

        /// Appends a unit, and promises it.
        fn append(&mut self, wal: &Wal, counter: u64) {
            let seq = self.append_silently(wal, counter);
            self.ledger.hear(Line::Acked { seq, thread: 0, counter }).unwrap();
        }

        /// Appends a unit, and returns the number of its first record.
        fn append_silently(&self, wal: &Wal, counter: u64) -> u64 {
            let unit = self.ledger.source.unit(Name { round: 1, thread: 0, counter });
            match unit.records.as_slice() {
                [record] => wal.append_tagged(unit.tag, &[IoSlice::new(record)]).unwrap(),
                records => wal.append_batch(records).unwrap().first().unwrap(),
            }
        }

        fn check(&mut self, recover: bool) -> Result<u64, String> {
            check(&self.setup, &MIX, &mut self.ledger, recover).map(|checked| checked.records)
        }

        fn layout(&self) -> Layout {
            Layout::of(&self.setup.dir).unwrap()
        }

        fn damage(&mut self, kind: Kind) -> Damage {
            Damage::inflict(kind, &self.layout(), &self.ledger, &mut self.random).unwrap()
        }

        fn pledge(&mut self, damage: &Damage) -> Result<Pledge, String> {
            Pledge::of(&self.setup.dir, damage, &mut self.ledger)
        }

        /// Damages sealed segments, and pledges what must be kept.
        fn damaged(seed: u64) -> (Self, Pledge) {
            let mut story = Self::begin(seed);
            let damage = story.damage(Kind::Flipped);
            let pledge = story.pledge(&damage).unwrap();
            (story, pledge)
        }

        fn repair(&self) {
            let log = Log::open(&self.setup.dir).unwrap();
            log.repair(&log.plan_repair().unwrap()).unwrap();
        }

        fn refusal(&mut self, damage: &Damage) -> String {
            self.pledge(damage).map(|_| ()).unwrap_err()
        }

        /// Changes a bit of the first record of a file.
        fn flip(&self, name: &str) {
            let path = self.setup.dir.join(name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[8192 + 8] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn whatever_is_damaged_the_log_is_as_it_should_be_when_a_repair_got_through() {
        let kinds = [Kind::Removed, Kind::Flipped, Kind::Header, Kind::Tail, Kind::NoManifest, Kind::BadManifest];
        for (seed, kind) in (0..).zip(kinds) {
            let mut story = Story::begin(seed);
            // A clean end bears witness of everything.
            story.check(true).unwrap();
            let damage = story.damage(kind);
            let before = story.ledger.records().clone();
            let pledge = story.pledge(&damage).unwrap();
            assert_eq!(pledge.look(), Ok(State::Untouched), "{kind:?}");
            fs::write(story.setup.dir.join("00000000000000009999.wal.new"), b"a beginning").unwrap();
            assert_eq!(pledge.look(), Ok(State::Begun), "{kind:?}");
            story.repair();
            assert_eq!(pledge.look(), Ok(State::Repaired { whole: true }), "{kind:?}");
            pledge.aside().unwrap();
            let kept = story.check(true).unwrap() / 2;
            assert_eq!(kept, story.ledger.records().len() as u64);
            assert!(
                before
                    .keys()
                    .filter(|seq| !damage.hit.contains(seq))
                    .all(|seq| story.ledger.records().contains_key(seq))
            );
            let last = story.ledger.seen().last;
            let wal = story.open();
            story.append(&wal, 150);
            drop(wal);
            assert!(story.ledger.seen().last > last && story.check(true).is_ok());
        }
    }

    #[test]
    fn a_plan_that_gives_up_what_was_not_hit_is_noticed() {
        let mut story = Story::begin(1);
        let damage = Damage { hit: Default::default(), ..story.damage(Kind::Flipped) };
        assert!(story.refusal(&damage).contains("was not hit and is to be given up"));
    }

    #[test]
    fn a_plan_that_does_not_name_all_damage_is_noticed() {
        let mut story = Story::begin(2);
        let mut damage = story.damage(Kind::Removed);
        damage.removed.push(9999);
        assert!(story.refusal(&damage).starts_with("segment 9999 is missing"));
        damage.removed.pop();
        damage.flipped.insert("another.wal".to_owned());
        assert!(story.refusal(&damage).starts_with("another.wal is damaged"));
        damage.flipped.clear();
        damage.manifest = true;
        assert!(story.refusal(&damage).starts_with("the MANIFEST is lost, or it is not"));
    }

    #[test]
    fn a_number_that_is_to_be_given_again_is_noticed() {
        let mut story = Story::begin(3);
        story.check(true).unwrap();
        let last = story.ledger.seen().last;
        let damage = story.damage(Kind::Tail);
        let shape = story.ledger.source.shape(Name { round: 1, thread: 0, counter: 150 });
        story.ledger.hear(Line::Acked { seq: last + 1, thread: 0, counter: 150 }).unwrap();
        assert!(shape.count > 0 && story.refusal(&damage).contains("is to be given again"));
    }

    #[test]
    fn a_number_of_a_lost_record_that_is_given_again_is_noticed() {
        let (mut story, pledge) = Story::damaged(4);
        let (seq, _) = lost(&pledge.plan)[0];
        let again = story.ledger.hear(Line::Acked { seq, thread: 0, counter: 150 });
        assert!(again.is_err_and(|e| e.contains("before, to a record that is lost")));
    }

    #[test]
    fn a_damaged_file_that_is_deleted_is_noticed_before_and_after_it_has_its_other_name() {
        let (story, pledge) = Story::damaged(5);
        fs::remove_file(story.setup.dir.join(&pledge.plan.set_aside[0].name)).unwrap();
        assert!(pledge.look().is_err_and(|e| e.contains("are gone")));
        let (story, pledge) = Story::damaged(5);
        story.repair();
        fs::remove_file(story.setup.dir.join(&pledge.plan.set_aside[0].as_name)).unwrap();
        assert!(pledge.look().is_err_and(|e| e.contains("are gone")) && pledge.aside().is_err());
    }

    #[test]
    fn a_sound_segment_or_a_manifest_that_is_gone_or_another_one_is_noticed() {
        let (story, pledge) = Story::damaged(6);
        let is_sound = |name: &String| pledge.plan.set_aside.iter().all(|aside| aside.name != *name);
        let sound = story.layout().sealed.into_iter().map(|segment| segment.name).find(is_sound).unwrap();
        story.flip(&sound);
        assert!(pledge.look().is_err_and(|e| e.contains("are gone")));
        story.flip(&sound);
        assert_eq!(pledge.look(), Ok(State::Untouched));
        fs::remove_file(story.setup.dir.join(MANIFEST)).unwrap();
        assert!(pledge.look().is_err_and(|e| e.contains("are gone")));
    }

    #[test]
    fn a_log_that_is_neither_as_before_nor_as_repaired_is_noticed() {
        let (story, mut pledge) = Story::damaged(7);
        let lost = pledge.plan.lost.pop().unwrap();
        assert!(pledge.look().is_err_and(|e| e.starts_with("the first plan was")));
        pledge.plan.lost.push(lost);
        story.repair();
        let made = pledge.plan.made.iter().map(|made| made.segment).min().unwrap();
        story.flip(&format!("{made:020}.wal"));
        assert!(pledge.look().is_err_and(|e| e.starts_with("the log is neither as before nor as repaired")));
    }

    #[test]
    fn a_record_that_a_repair_gave_up_against_its_first_plan_is_noticed() {
        let (mut story, pledge) = Story::damaged(8);
        let is_sound = |name: &String| pledge.plan.set_aside.iter().all(|aside| aside.name != *name);
        let sound = story.layout().sealed.into_iter().map(|segment| segment.name).find(is_sound).unwrap();
        story.flip(&sound);
        story.repair();
        let refusal = story.check(false).unwrap_err();
        assert!(refusal.starts_with("replay at record") && refusal.contains("were lost"), "{refusal}");
    }

    #[test]
    fn a_record_that_is_there_though_it_was_given_up_is_noticed() {
        let mut story = Story::begin(9);
        let seen = story.ledger.seen();
        story.ledger.repair(seen, &[(20, 20)]);
        let refusal = story.check(false).unwrap_err();
        assert!(refusal.starts_with("record 20 should not be there"), "{refusal}");
    }

    #[test]
    fn a_record_that_nobody_appended_is_noticed_behind_a_repair() {
        let (mut story, _) = Story::damaged(10);
        story.repair();
        let wal = story.open();
        let next = story.ledger.source.unit(Name { round: 1, thread: 0, counter: 150 });
        wal.append_batch(&next.records).unwrap();
        drop(wal);
        let refusal = story.check(false).unwrap_err();
        assert!(refusal.contains("should not be there"), "{refusal}");
    }

    #[test]
    fn truncated_records_that_a_lost_manifest_brings_back_must_be_what_they_were() {
        let mut story = Story::begin(11);
        let damage = story.damage(Kind::NoManifest);
        story.pledge(&damage).unwrap();
        assert_eq!(story.ledger.seen().first, 1);
        story.repair();
        assert!(story.check(false).is_ok());
        story.ledger.repair(Seen { first: 1, ..story.ledger.seen() }, &[(3, 3)]);
        assert!(story.check(false).is_err());
    }

    #[test]
    fn a_unit_that_was_truncated_before_it_was_acknowledged_may_come_back_whole() {
        let mut story = Story::begin(13);
        let wal = story.open();
        let seq = story.append_silently(&wal, 150);
        let last = wal.positions().last;
        story.ledger.hear(Line::Front(last)).unwrap();
        wal.truncate_front(last).unwrap();
        drop(wal);
        story.check(false).unwrap();
        assert!(story.ledger.records().is_empty());
        let damage = story.damage(Kind::NoManifest);
        story.pledge(&damage).unwrap();
        story.repair();
        assert!(story.check(false).is_ok_and(|records| records > 0), "{:?}", story.check(false));
        assert!(story.ledger.records().contains_key(&seq));
    }

    #[test]
    fn what_was_set_aside_must_stay() {
        let (story, pledge) = Story::damaged(12);
        story.repair();
        let aside = pledge.aside().unwrap();
        assert_eq!(aside.stay(&Files::of(&story.setup.dir).unwrap()), Ok(()));
        fs::remove_file(story.setup.dir.join(&pledge.plan.set_aside[0].as_name)).unwrap();
        assert!(aside.stay(&Files::of(&story.setup.dir).unwrap()).is_err());
        assert_eq!(aside.strangers(&["mine".to_owned()]), Some(&"mine".to_owned()));
    }
}
