//! `crash-test`: kills a writer at random times and checks what is left.

mod check;
mod child;
pub(crate) mod mixed;
mod random;
pub(crate) mod repair;
mod rounds;
mod source;
mod tally;
pub(crate) mod writer;

use std::fs::DirBuilder;
use std::io::{Write, stdout};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::crash_test::mixed::{Hosted, Mix};
use crate::crash_test::random::mix;
use crate::crash_test::rounds::Setup;
use crate::crash_test::tally::Tally;
use crate::failure::{FAILED, Failure, OK, Outcome, USAGE};
use crate::parse::{LogArgs, Mode, duration, size};

/// The size of segments for a writer of lines.
const LINES_SEGMENT: u64 = 64 << 10;
/// The size of segments of logs that are repaired: the least.
const REPAIRED_SEGMENT: u64 = 12 << 10;
/// The most that segments can have.
const MOST_SEGMENT: u64 = 16 << 30;

/// Kill a writer with SIGKILL at random times, recover, and check every acknowledged record, again and again.
///
/// The writer is this program. The next round goes on in the same log. Exits with 1 on any loss; the log is then kept.
///
/// One kind of writer appends lines, as `append` does. The other one mixes single records, batches and submitted ones,
/// from several threads, and checkpoints, truncates and cuts between them. What it leaves can also be damaged, and the
/// repair be killed until it gets through. With none of the options that choose a writer, all run: lines in every mode,
/// the mixed writer in every mode with one thread and with four, and repairs in every mode.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An empty directory for the logs, which are left there; by default a temporary one.
    dir: Option<PathBuf>,
    /// Kills per log: for every mode there are several.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this mode; by default all, and atomic batches.
    #[arg(long, value_enum)]
    sync_mode: Option<Mode>,
    /// The mixed writer with so many threads; by default with one and with four.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), conflicts_with = "batch")]
    threads: Option<u32>,
    /// The mixed writer, which also checkpoints and truncates the front.
    #[arg(long, conflicts_with = "batch")]
    truncate: bool,
    /// The mixed writer, which also cuts off the back and now and then drops all.
    #[arg(long, conflicts_with = "batch")]
    cut: bool,
    /// The mixed writer, with segments prepared by this; by default by a thread in some logs and the caller in others.
    #[arg(long, value_enum, conflicts_with = "batch")]
    background: Option<Hosted>,
    /// The mixed writer, which also truncates; damage the log that it leaves, kill the repair again and again, and go on.
    #[arg(long, conflicts_with_all = ["batch", "cut"])]
    repair: bool,
    /// Make so many lines one atomic batch.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Size of segment files: small ones, so that many kills hit a rotation; by default 64KiB, and down to 12KiB for the
    /// mixed writer.
    #[arg(long, value_name = "SIZE", value_parser = segment_size)]
    segment_size: Option<u64>,
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
        let tally = run_rounds(&setup).map_err(|lost| {
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

fn run_rounds(setup: &Setup) -> Result<Tally, String> {
    match &setup.mix {
        Some(mix) if mix.repair => repair::rounds::run(setup, mix),
        Some(mix) => mixed::rounds::run(setup, mix),
        None => rounds::run(setup),
    }
}

fn setups(args: &Args, dir: &Path, seed: u64) -> Vec<Setup> {
    let is_mixed = args.threads.is_some() || args.truncate || args.cut || args.background.is_some() || args.repair;
    let is_chosen = is_mixed || args.sync_mode.is_some() || args.batch.is_some();
    let lines = || match (args.sync_mode, args.batch) {
        (None, None) => {
            vec![(Mode::Sync, None), (Mode::Batch, None), (Mode::None, None), (Mode::Sync, Some(10))]
        }
        (mode, batch) => vec![(mode.unwrap_or(Mode::Sync), batch)],
    };
    let mut setups = Vec::new();
    if !is_mixed {
        setups.extend(lines().into_iter().map(|(mode, batch)| Setup { batch, ..setup(args, dir, seed, mode) }));
    }
    let mixed = if is_mixed && !args.repair || !is_chosen { mixes(args, is_chosen) } else { Vec::new() };
    let repaired = if args.repair || !is_chosen { repairs(args) } else { Vec::new() };
    setups.extend(mixed.into_iter().chain(repaired).map(|(mode, segment_size, mix)| {
        let setup = setup(args, dir, seed, mode);
        Setup { mix: Some(mix), log: LogArgs { segment_size, ..setup.log }, ..setup }
    }));
    for setup in &mut setups {
        setup.name = name(setup);
        // Not every log is to be killed at the same moments, and one alone is to be killed as among the others.
        setup.seed = setup.name.bytes().fold(seed, |seed, byte| mix(seed ^ u64::from(byte)));
        setup.dir = dir.join(setup.name.replace("--", "").replace(' ', "-"));
    }
    setups
}

/// Every mode with one thread and with four, unless the arguments say less; the other choices alternate.
fn mixes(args: &Args, is_chosen: bool) -> Vec<(Mode, u64, Mix)> {
    let modes = args.sync_mode.map_or(vec![Mode::Sync, Mode::Batch, Mode::None], |mode| vec![mode]);
    let threads = args.threads.map_or(vec![1, 4], |count| vec![count]);
    let hosts = [Hosted::Thread, Hosted::Caller, Hosted::Caller, Hosted::Thread];
    let sizes = [16 << 10, 12 << 10, 64 << 10];
    let each = modes.into_iter().flat_map(|mode| threads.iter().map(move |count| (mode, *count)));
    let chosen = each.zip(hosts.into_iter().cycle().zip(sizes.into_iter().cycle()));
    let choose = |((mode, threads), (host, size))| {
        let (truncate, cut) = (args.truncate || !is_chosen, args.cut || !is_chosen);
        let background = args.background.unwrap_or(host);
        (mode, args.segment_size.unwrap_or(size), Mix { threads, truncate, cut, background, repair: false })
    };
    chosen.map(choose).collect()
}

/// Every mode, unless the arguments say less, with small segments: a repair is to take its time.
fn repairs(args: &Args) -> Vec<(Mode, u64, Mix)> {
    let all = [(Mode::Sync, 1, Hosted::Thread), (Mode::Batch, 4, Hosted::Caller), (Mode::None, 2, Hosted::Thread)];
    let chosen = all.into_iter().filter(|(mode, ..)| args.sync_mode.is_none_or(|only| only == *mode));
    let choose = |(mode, threads, host)| {
        let (threads, background) = (args.threads.unwrap_or(threads), args.background.unwrap_or(host));
        let mix = Mix { threads, truncate: true, cut: false, background, repair: true };
        (mode, args.segment_size.unwrap_or(REPAIRED_SEGMENT), mix)
    };
    chosen.map(choose).collect()
}

/// A log of its own for a writer of lines.
fn setup(args: &Args, dir: &Path, seed: u64, sync_mode: Mode) -> Setup {
    let log = LogArgs {
        sync_mode,
        sync_records: 100,
        sync_delay: std::time::Duration::from_millis(10),
        segment_size: args.segment_size.unwrap_or(LINES_SEGMENT),
    };
    let (rounds, lines, within) = (args.rounds, args.lines, args.within);
    Setup { name: String::new(), dir: dir.to_owned(), log, batch: None, mix: None, rounds, lines, within, seed }
}

/// The options that choose this writer.
fn name(setup: &Setup) -> String {
    let mode = setup.log.sync_mode.as_str();
    match (setup.batch, setup.mix) {
        (_, Some(Mix { threads, background, repair: true, .. })) => {
            format!("{mode} --repair --threads {threads} --background {}", background.as_str())
        }
        (_, Some(Mix { threads, truncate, cut, background, .. })) => {
            let truncate = if truncate { " --truncate" } else { "" };
            let cut = if cut { " --cut" } else { "" };
            format!("{mode} --threads {threads}{truncate}{cut} --background {}", background.as_str())
        }
        (Some(count), None) => format!("{mode} --batch {count}"),
        (None, None) => mode.to_owned(),
    }
}

/// A size that a log can be opened with: a writer that cannot begin would count as a loss.
fn segment_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    let can_be = (REPAIRED_SEGMENT..=MOST_SEGMENT).contains(&bytes);
    if can_be { Ok(bytes) } else { Err("it must be from 12KiB to 16GiB".to_owned()) }
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
