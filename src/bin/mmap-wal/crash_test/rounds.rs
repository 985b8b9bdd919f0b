//! The rounds of one mode.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::process::{ChildStdout, Command};
use std::time::Duration;

use crate::crash_test::check::check;
use crate::crash_test::child::{Ended, Heard, Writer, writer_command};
use crate::crash_test::mixed::Mix;
use crate::crash_test::random::Random;
use crate::crash_test::tally::Tally;
use crate::parse::LogArgs;

/// How many bytes are listened to at a time.
const EAR: usize = 64 << 10;
/// One in so many kills comes while the writer creates or recovers the log.
const EARLY: u64 = 5;
/// How long after the start of the writer an early kill comes at most.
pub(crate) const EARLY_WITHIN: Duration = Duration::from_millis(30);

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
    /// What a mixed writer does; without it, the writer appends lines.
    pub(crate) mix: Option<Mix>,
    /// How many kills.
    pub(crate) rounds: u32,
    /// How many records a log gets.
    pub(crate) lines: u64,
    /// How long after the first acknowledgement a kill comes at most.
    pub(crate) within: Duration,
    /// What everything random follows from.
    pub(crate) seed: u64,
}

/// Runs the rounds; the error says what was lost.
pub(crate) fn run(setup: &Setup) -> Result<Tally, String> {
    let mut random = Random::new(setup.seed);
    let mut tally = Tally::default();
    let mut last_seq = 0;
    for round in 1..=setup.rounds {
        let of_round = |e: String| format!("round {round}: {e}");
        let ended = one_kill(setup, &mut random, last_seq + 1).map_err(|e| of_round(e.to_string()))?;
        let acked = ended.heard;
        let checked = check(setup, acked.max(last_seq), random.below(2) == 0).map_err(of_round)?;
        tally.rounds += 1;
        tally.killed += u64::from(ended.killed);
        tally.unacknowledged += u64::from(ended.killed && acked == 0);
        tally.near_rotation += u64::from(ended.killed && checked.near_rotation);
        tally.appended += checked.last_seq - last_seq;
        tally.acknowledged += acked.saturating_sub(last_seq);
        tally.checked += checked.records;
        last_seq = checked.last_seq;
        if last_seq >= setup.lines {
            std::fs::remove_dir_all(&setup.dir).map_err(|e| of_round(format!("cannot remove the full log: {e}")))?;
            last_seq = 0;
        }
    }
    Ok(tally)
}

fn one_kill(setup: &Setup, random: &mut Random, from: u64) -> io::Result<Ended<u64>> {
    let writer = Writer::start(&mut command(setup, from)?, listen)?;
    if random.below(EARLY) == 0 {
        writer.kill_after(random.time(EARLY_WITHIN))
    } else {
        writer.kill_at_work(random.time(setup.within))
    }
}

fn command(setup: &Setup, from: u64) -> io::Result<Command> {
    let mut command = writer_command(setup, "crash-writer")?;
    let numbers = [("--from", from), ("--lines", setup.lines)];
    for (option, value) in numbers.into_iter().chain(setup.batch.map(|count| ("--batch", count))) {
        command.arg(option).arg(value.to_string());
    }
    Ok(command)
}

/// Reads numbers until the writer is gone; returns the last whole line, 0 if there is none.
fn listen(stdout: ChildStdout, heard: &Heard) -> io::Result<u64> {
    let mut stdout = BufReader::new(stdout);
    let (mut acked, mut number) = (0, 0_u64);
    let mut bytes = vec![0; EAR];
    loop {
        let count = stdout.read(&mut bytes)?;
        if count == 0 {
            return Ok(acked);
        }
        for byte in &bytes[..count] {
            if *byte == b'\n' {
                if acked == 0 {
                    heard.tell();
                }
                acked = number;
                number = 0;
            } else {
                number = number.wrapping_mul(10).wrapping_add(u64::from(byte.wrapping_sub(b'0')));
            }
        }
    }
}
