//! The rounds of a mixed writer.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{ChildStdout, Command};
use std::time::Duration;

use crate::crash_test::child::{Ended, Heard, Writer, writer_command};
use crate::crash_test::mixed::Mix;
use crate::crash_test::mixed::check::check;
use crate::crash_test::mixed::ledger::Ledger;
use crate::crash_test::mixed::line::Line;
use crate::crash_test::mixed::unit::Source;
use crate::crash_test::random::Random;
use crate::crash_test::rounds::{EARLY_WITHIN, Setup};
use crate::crash_test::tally::Tally;

/// How long after the line that is waited for the kill comes at most, if the line begins something short.
const ACT_WITHIN: Duration = Duration::from_millis(2);

/// How long such a line is waited for.
const AIM_PATIENCE: Duration = Duration::from_secs(1);

/// When the kill comes.
#[derive(Clone, Copy)]
enum Aim {
    /// While the writer starts, creates or recovers the log.
    Start,
    /// Some time after the first acknowledgement.
    AnyTime,
    /// After the so many-th line that begins a rotation, a truncation, a cut.
    Rotation(u64),
    Truncation(u64),
    Cut(u64),
}

impl Aim {
    fn draw(mix: &Mix, random: &mut Random) -> Self {
        let nth = 1 + random.below(12);
        match random.below(8) {
            0 => Self::Start,
            1 => Self::Rotation(nth),
            2 | 3 if mix.truncate => Self::Truncation(nth),
            4 | 5 if mix.cut => Self::Cut(nth),
            _ => Self::AnyTime,
        }
    }

    /// How many such lines are waited for, if they are.
    fn nth_of(self, line: Line) -> Option<u64> {
        match (self, line) {
            (Self::Rotation(nth), Line::Rotated(_)) => Some(nth),
            (Self::Truncation(nth), Line::Checkpoint(_) | Line::Front(_)) => Some(nth),
            (Self::Cut(nth), Line::Back(_) | Line::Reset(_)) => Some(nth),
            _ => None,
        }
    }
}

/// A log, and what came of the rounds so far.
pub(crate) struct Rounds<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) mix: &'a Mix,
    pub(crate) random: Random,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
}

/// Runs the rounds; the error says what was lost.
pub(crate) fn run(setup: &Setup, mix: &Mix) -> Result<Tally, String> {
    let mut rounds = Rounds::new(setup, mix);
    for round in 1..=setup.rounds {
        rounds.one(round).map_err(|e| format!("round {round}: {e}"))?;
    }
    Ok(rounds.tally)
}

fn empty_ledger(setup: &Setup, mix: &Mix) -> Ledger {
    let ledger = Ledger::new(Source { seed: setup.seed, segment_size: setup.log.segment_size }, mix.threads);
    if mix.repair { ledger.remembering() } else { ledger }
}

impl<'a> Rounds<'a> {
    /// A log that is not there yet.
    pub(crate) fn new(setup: &'a Setup, mix: &'a Mix) -> Self {
        let (random, ledger) = (Random::new(setup.seed), empty_ledger(setup, mix));
        Self { setup, mix, random, ledger, tally: Tally::default() }
    }

    /// Lets a writer go on in the log, kills it and checks what it leaves.
    pub(crate) fn one(&mut self, round: u32) -> Result<(), String> {
        let Ended { heard, killed } = self.kill(round).map_err(|e| e.to_string())?;
        self.ledger.begin(round);
        self.hold_to(&heard, killed)
            .map_err(|e| format!("{e}; what the writer said is {}", keep(self.setup, &heard)))?;
        if self.ledger.records().len() as u64 >= self.setup.lines {
            fs::remove_dir_all(&self.setup.dir).map_err(|e| format!("cannot remove the full log: {e}"))?;
            self.ledger = empty_ledger(self.setup, self.mix);
        }
        Ok(())
    }

    fn kill(&mut self, round: u32) -> io::Result<Ended<Vec<Line>>> {
        let aim = Aim::draw(self.mix, &mut self.random);
        let mut command = command(self.setup, self.mix, round)?;
        let writer = Writer::start(&mut command, move |stdout, heard| listen(stdout, aim, heard))?;
        match aim {
            Aim::Start => writer.kill_after(self.random.time(EARLY_WITHIN)),
            Aim::AnyTime => writer.kill_at_work(self.random.time(self.setup.within)),
            _ => writer.kill_at_moment(AIM_PATIENCE, self.random.time(ACT_WITHIN)),
        }
    }

    /// Holds the log to what was heard, and counts.
    fn hold_to(&mut self, heard: &[Line], killed: bool) -> Result<(), String> {
        let ledger = &mut self.ledger;
        heard.iter().try_for_each(|line| ledger.hear(*line))?;
        let (in_truncation, in_cut) = (ledger.is_truncating(), ledger.is_cutting());
        let in_rotation = ledger.is_rotating();
        let recover = self.random.below(2) == 0;
        let checked = check(self.setup, self.mix, ledger, recover)?;
        let of_kills = |counts: bool| u64::from(killed && counts);
        self.tally.add(&Tally {
            rounds: 1,
            killed: of_kills(true),
            unacknowledged: of_kills(ledger.acknowledged() == 0),
            near_rotation: of_kills(in_rotation || checked.near_rotation),
            in_truncation: of_kills(in_truncation),
            in_cut: of_kills(in_cut),
            appended: ledger.acknowledged() + ledger.adopted(),
            acknowledged: ledger.acknowledged(),
            checked: checked.records,
            ..Tally::default()
        });
        Ok(())
    }
}

fn command(setup: &Setup, mix: &Mix, round: u32) -> io::Result<Command> {
    let mut command = writer_command(setup, "crash-mixer")?;
    command.args(["--background", mix.background.as_str()]);
    for (option, number) in [("--threads", mix.threads), ("--round", round)] {
        command.arg(option).arg(number.to_string());
    }
    let switches = [("--truncate", mix.truncate), ("--cut", mix.cut)];
    command.args(switches.iter().filter(|(_, on)| *on).map(|(option, _)| option));
    Ok(command)
}

/// Collects lines until the writer is gone; tells of the first acknowledgement, and of the line that is aimed at.
fn listen(stdout: ChildStdout, aim: Aim, heard: &Heard) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let (mut text, mut count, mut is_at_work) = (String::new(), 0, false);
    let mut stdout = BufReader::new(stdout);
    while stdout.read_line(&mut text)? > 0 {
        let line = text.strip_suffix('\n').and_then(Line::parse);
        let line = line.ok_or_else(|| io::Error::other(format!("the writer said {text:?}")))?;
        if matches!(line, Line::Acked { .. }) && !is_at_work {
            is_at_work = true;
            heard.tell();
        }
        lines.push(line);
        if let Some(nth) = aim.nth_of(line) {
            count += 1;
            if count == nth {
                heard.tell();
            }
        }
        text.clear();
    }
    Ok(lines)
}

/// Keeps what a writer said beside the log that it left, and says where.
fn keep(setup: &Setup, heard: &[Line]) -> String {
    let path = setup.dir.with_extension("said");
    let text: String = heard.iter().map(Line::to_string).collect();
    match fs::write(&path, text) {
        Ok(()) => format!("in {}", path.display()),
        Err(e) => format!("not kept: {e}"),
    }
}
