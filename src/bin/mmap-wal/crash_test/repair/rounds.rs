//! The rounds of a log that is damaged and repaired.

use std::io;
use std::process::Command;
use std::time::Duration;

use mmap_wal::inspect::Log;

use crate::crash_test::child::{Ended, Writer};
use crate::crash_test::mixed::check::check;
use crate::crash_test::mixed::{Mix, rounds};
use crate::crash_test::repair::damage::{Damage, Kind};
use crate::crash_test::repair::files::Files;
use crate::crash_test::repair::layout::Layout;
use crate::crash_test::repair::pledge::{Pledge, State};
use crate::crash_test::repair::repairer::listen;
use crate::crash_test::rounds::{EARLY_WITHIN, Setup};
use crate::crash_test::tally::{Repairs, Tally};
use crate::failure::sentence_of;

/// The most kills of one repair before it is let through.
const MOST_KILLS: u64 = 5;
/// One in so many kills comes while a repair is planned.
const EARLY: u64 = 8;
/// How long a repair takes for each file, until one was measured.
const FIRST_PACE: Duration = Duration::from_millis(2);
/// What a repair does besides files, in the time of so many.
const OTHER_STEPS: u32 = 2;

/// A damaged log.
struct Case {
    pledge: Pledge,
    /// How often its repair is still to be killed.
    kills: u64,
    /// What was done to it, for people.
    what: String,
}

/// A log that is written, damaged, repaired and written on.
struct Rounds<'a> {
    writing: rounds::Rounds<'a>,
    damaged: Option<Case>,
    /// What repairs have set aside so far.
    aside: Files,
    pace: Duration,
}

/// Runs the rounds: in each a writer is killed or a repair of what it left; the error says what was lost.
pub(crate) fn run(setup: &Setup, mix: &Mix) -> Result<Tally, String> {
    let writing = rounds::Rounds::new(setup, mix);
    let mut rounds = Rounds { writing, damaged: None, aside: Files::default(), pace: FIRST_PACE };
    for round in 1..=setup.rounds {
        rounds.one(round).map_err(|e| format!("round {round}: {e}"))?;
    }
    if let Some(case) = rounds.damaged.take() {
        rounds.end(&case).map_err(|e| format!("the last repair: {e}"))?;
    }
    Ok(rounds.writing.tally)
}

impl Rounds<'_> {
    fn one(&mut self, round: u32) -> Result<(), String> {
        if let Some(mut case) = self.damaged.take() {
            let is_repaired = self.kill(&mut case).map_err(|e| format!("{e}; the damage was: {}", case.what))?;
            if is_repaired || case.kills == 0 {
                return self.end(&case);
            }
            self.damaged = Some(case);
            return Ok(());
        }
        self.writing.one(round)?;
        if self.writing.ledger.exists() {
            self.damaged = Some(self.damage()?);
        } else {
            // It was full and is begun anew, or was never there.
            self.aside = Files::default();
        }
        Ok(())
    }

    /// Damages what a writer has left.
    fn damage(&mut self) -> Result<Case, String> {
        let (dir, random) = (&self.writing.setup.dir, &mut self.writing.random);
        let now = Files::of(dir).map_err(|e| format!("reading the files: {e}"))?;
        self.aside.stay(&now)?;
        let layout = Layout::of(dir).map_err(|e| format!("looking at it: {}", sentence_of(&e)))?;
        let ledger = &mut self.writing.ledger;
        let kind = Kind::draw(&layout, random);
        let damage = Damage::inflict(kind, &layout, ledger, random).map_err(|e| format!("damaging it: {e}"))?;
        let what = damage.what.join(", ");
        let before = ledger.records().len();
        let pledge = Pledge::of(dir, &damage, ledger).map_err(|e| format!("{e}; the damage was: {what}"))?;
        self.writing.tally.repairs.given_up += before.saturating_sub(ledger.records().len()) as u64;
        Ok(Case { pledge, kills: 1 + random.below(MOST_KILLS), what })
    }

    /// Kills a repair, and says whether nothing is left to repair.
    fn kill(&mut self, case: &mut Case) -> Result<bool, String> {
        let ended = self.one_kill(case).map_err(|e| e.to_string())?;
        let state = case.pledge.look()?;
        let of_kills = |counts: bool| u64::from(ended.killed && counts);
        self.writing.tally.add(&Tally {
            rounds: 1,
            repairs: Repairs {
                untouched: of_kills(state == State::Untouched),
                begun: of_kills(state == State::Begun),
                changed: of_kills(matches!(state, State::Repaired { .. })),
                ..Repairs::default()
            },
            ..Tally::default()
        });
        case.kills -= 1;
        match state {
            State::Repaired { whole } if whole || ended.killed => Ok(whole),
            _ if ended.killed => Ok(false),
            _ => Err(format!("a repair got through, and its log is {state:?}")),
        }
    }

    fn one_kill(&mut self, case: &Case) -> io::Result<Ended<Option<Duration>>> {
        let repair = start(self.writing.setup)?;
        let random = &mut self.writing.random;
        if random.below(EARLY) == 0 {
            return repair.kill_after(random.time(EARLY_WITHIN));
        }
        // Every moment of a repair is as likely as any other.
        let time = self.pace * (case.pledge.steps() + OTHER_STEPS);
        let ended = repair.kill_at_work(Duration::from_micros(random.below(time.as_micros() as u64 + 1)))?;
        self.learn(case, ended.heard);
        Ok(ended)
    }

    fn learn(&mut self, case: &Case, time: Option<Duration>) {
        self.pace = time.map_or(self.pace, |time| time / (case.pledge.steps() + OTHER_STEPS));
    }

    /// Lets a repair get through if none has, and checks what the log is then.
    fn end(&mut self, case: &Case) -> Result<(), String> {
        self.get_through(case)
            .and_then(|()| self.check(case))
            .map_err(|e| format!("{e}; the damage was: {}", case.what))
    }

    fn get_through(&mut self, case: &Case) -> Result<(), String> {
        if case.pledge.look()? == (State::Repaired { whole: true }) {
            return Ok(());
        }
        let ended = start(self.writing.setup).and_then(Writer::finish).map_err(|e| e.to_string())?;
        self.learn(case, ended.heard);
        match case.pledge.look()? {
            State::Repaired { whole: true } => Ok(()),
            state => Err(format!("a repair got through, and its log is {state:?}")),
        }
    }

    /// Everything that was pledged is there, nothing else is, and what was damaged has another name.
    fn check(&mut self, case: &Case) -> Result<(), String> {
        let rounds::Rounds { setup, mix, random, ledger, tally } = &mut self.writing;
        self.aside.add(case.pledge.aside()?);
        let recover = random.below(2) == 0;
        tally.checked += check(setup, mix, ledger, recover)?.records;
        tally.repairs.repaired += 1;
        if recover { self.is_tidy() } else { Ok(()) }
    }

    /// Whether nothing of repairs is left over in a log that was recovered, what they have set aside apart.
    fn is_tidy(&self) -> Result<(), String> {
        let dir = &self.writing.setup.dir;
        let now = Files::of(dir).map_err(|e| format!("reading the files: {e}"))?;
        self.aside.stay(&now)?;
        let stat =
            Log::open(dir).and_then(|log| log.stat()).map_err(|e| format!("after recovery: {}", sentence_of(&e)))?;
        let left = stat.leftovers.first().or_else(|| self.aside.strangers(&stat.others));
        left.map_or(Ok(()), |name| Err(format!("{name} is left over after a repair and a recovery")))
    }
}

fn start(setup: &Setup) -> io::Result<Writer<Option<Duration>>> {
    let mut command = Command::new(std::env::current_exe()?);
    Writer::start(command.arg("crash-repairer").arg(&setup.dir), listen)
}
