//! `crash-test`: kills a writer at random times and checks what is left.

mod check;
mod child;
mod random;
mod rounds;
mod source;
pub(crate) mod writer;

use std::fs::DirBuilder;
use std::io::{Write, stdout};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::crash_test::rounds::{Setup, Tally};
use crate::failure::{FAILED, Failure, OK, Outcome, USAGE};
use crate::parse::{LogArgs, Mode, duration, size};

/// Kill a writer with SIGKILL at random times, recover, and check every acknowledged record, again and again.
///
/// The writer is this program. The next round goes on in the same log. Exits with 1 on any loss; the log is then kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An empty directory for the logs, which are left there; by default a temporary one.
    dir: Option<PathBuf>,
    /// Kills per mode.
    #[arg(long, value_name = "N", default_value_t = 25)]
    rounds: u32,
    /// Only this mode; by default all, and atomic batches.
    #[arg(long, value_enum)]
    sync_mode: Option<Mode>,
    /// Make so many lines one atomic batch.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Size of segment files: small ones, so that many kills hit a rotation.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = size)]
    segment_size: u64,
    /// When a log has so many records, the next round begins a new one.
    #[arg(long, value_name = "N", default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    lines: u64,
    /// Kill at most so long after the first acknowledgement.
    #[arg(long, value_name = "TIME", default_value = "400ms", value_parser = duration)]
    within: std::time::Duration,
    /// Repeat the random numbers of an earlier run; its times of killing are not exactly repeatable.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs every mode that was asked for, and sums up.
pub(crate) fn run(args: &Args) -> Outcome {
    let seed = args.seed.unwrap_or_else(seed_of_now);
    let (dir, temporary) = match &args.dir {
        Some(dir) => (empty_dir(dir)?, false),
        None => (temporary_dir()?, true),
    };
    say(&format!("seed {seed}, logs in {}", dir.display()))?;
    let mut total = Tally::default();
    for setup in setups(args, &dir, seed) {
        let tally = rounds::run(&setup).map_err(|lost| {
            let log = setup.dir.display();
            Failure::new(FAILED, format!("{}: {lost}; the log is kept in {log} (seed {seed})", setup.name))
        })?;
        say(&format!("{}: {tally}", setup.name))?;
        total.add(&tally);
    }
    say(&format!("all: {total}"))?;
    if temporary {
        std::fs::remove_dir_all(&dir).map_err(|e| unusable(&dir, &e))?;
    }
    Ok(OK)
}

fn setups(args: &Args, dir: &Path, seed: u64) -> Vec<Setup> {
    let modes: Vec<(Mode, Option<u64>)> = match (args.sync_mode, args.batch) {
        (None, None) => {
            vec![(Mode::Sync, None), (Mode::Batch, None), (Mode::None, None), (Mode::Sync, Some(10))]
        }
        (mode, batch) => vec![(mode.unwrap_or(Mode::Sync), batch)],
    };
    let setup = |(mode, batch): (Mode, Option<u64>)| {
        let name = match batch {
            Some(count) => format!("{} --batch {count}", mode.as_str()),
            None => mode.as_str().to_owned(),
        };
        let log = LogArgs {
            sync_mode: mode,
            sync_records: 100,
            sync_delay: std::time::Duration::from_millis(10),
            segment_size: args.segment_size,
        };
        let dir = dir.join(name.replace(' ', "-").replace("---", "-"));
        Setup { name, dir, log, batch, rounds: args.rounds, lines: args.lines, within: args.within, seed }
    };
    modes.into_iter().map(setup).collect()
}

fn say(line: &str) -> Result<(), Failure> {
    let mut output = stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(|e| Failure::output(&e))
}

/// What a test writes must not come among what is somebody's.
fn empty_dir(dir: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
    let mut entries = std::fs::read_dir(dir).map_err(|e| unusable(dir, &e))?;
    if entries.next().is_some() {
        return Err(Failure::new(USAGE, format!("{} is not empty; give a directory that is", dir.display())));
    }
    Ok(dir.to_owned())
}

fn temporary_dir() -> Result<PathBuf, Failure> {
    let name = format!("mmap-wal-crash-test-{}-{:x}", std::process::id(), seed_of_now());
    let dir = std::env::temp_dir().join(name);
    DirBuilder::new().mode(0o700).create(&dir).map_err(|e| unusable(&dir, &e))?;
    Ok(dir)
}

fn unusable(dir: &Path, e: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot use {} for the test: {e}; give another directory", dir.display()))
}

fn seed_of_now() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    nanos % 1_000_000_007
}
