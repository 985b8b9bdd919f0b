//! The rounds of one mode.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::crash_test::check::check;
use crate::crash_test::child::{Ended, Writer};
use crate::crash_test::random::Random;
use crate::parse::LogArgs;

/// One in so many kills comes while the writer creates or recovers the log.
const EARLY: u64 = 5;
/// How long after the start of the writer an early kill comes at most.
const EARLY_WITHIN: Duration = Duration::from_millis(30);

/// How a mode is tested.
pub(crate) struct Setup {
    /// The mode, for people.
    pub(crate) name: String,
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// How the log is written.
    pub(crate) log: LogArgs,
    /// Lines per atomic batch.
    pub(crate) batch: Option<u64>,
    /// How many kills.
    pub(crate) rounds: u32,
    /// How many records a log gets.
    pub(crate) lines: u64,
    /// How long after the first acknowledgement a kill comes at most.
    pub(crate) within: Duration,
    /// What everything random follows from.
    pub(crate) seed: u64,
}

/// What came of the rounds.
#[derive(Default)]
pub(crate) struct Tally {
    rounds: u64,
    killed: u64,
    unacknowledged: u64,
    near_rotation: u64,
    appended: u64,
    checked: u64,
}

impl Tally {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.killed += other.killed;
        self.unacknowledged += other.unacknowledged;
        self.near_rotation += other.near_rotation;
        self.appended += other.appended;
        self.checked += other.checked;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, killed, unacknowledged, near_rotation, appended, checked } = self;
        write!(f, "{rounds} rounds, {killed} kills of a living writer ({unacknowledged} before its first ")?;
        write!(f, "acknowledgement, {near_rotation} near a rotation), {appended} records appended, ")?;
        write!(f, "{checked} checked, 0 lost")
    }
}

/// Runs the rounds; the error says what was lost.
pub(crate) fn run(setup: &Setup) -> Result<Tally, String> {
    let mut random = Random::new(setup.seed);
    let mut tally = Tally::default();
    let mut last_seq = 0;
    for round in 1..=setup.rounds {
        let of_round = |e: String| format!("round {round}: {e}");
        let ended = one_kill(setup, &mut random, last_seq + 1).map_err(|e| of_round(e.to_string()))?;
        let checked = check(setup, ended.acked.max(last_seq), random.below(2) == 0).map_err(of_round)?;
        tally.rounds += 1;
        tally.killed += u64::from(ended.killed);
        tally.unacknowledged += u64::from(ended.killed && ended.acked == 0);
        tally.near_rotation += u64::from(ended.killed && checked.near_rotation);
        tally.appended += checked.last_seq - last_seq;
        tally.checked += checked.records;
        last_seq = checked.last_seq;
        if last_seq >= setup.lines {
            std::fs::remove_dir_all(&setup.dir).map_err(|e| of_round(format!("cannot remove the full log: {e}")))?;
            last_seq = 0;
        }
    }
    Ok(tally)
}

fn one_kill(setup: &Setup, random: &mut Random, from: u64) -> std::io::Result<Ended> {
    let writer = Writer::start(setup, from)?;
    if random.below(EARLY) == 0 {
        std::thread::sleep(random.time(EARLY_WITHIN));
    } else {
        writer.wait_for_first();
        std::thread::sleep(random.time(setup.within));
    }
    writer.kill()
}
