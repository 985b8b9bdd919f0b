//! `mmap-wal`: the command line of the log. One file per command, and nothing but the library's public interface.
#![deny(unsafe_code)]

mod acks;
mod append;
mod bar;
mod bench;
mod checkpoint;
mod copy;
mod crash_test;
mod dump;
mod failure;
mod format;
mod live;
mod parse;
mod records;
mod repair;
mod replay;
mod salvage;
mod stat;
mod tail;
mod text;
mod top;
mod truncate;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::failure::{FAILED, Failure, Outcome, USAGE};

/// A memory-mapped segment write-ahead log.
///
/// Exit codes: 0 ok, 1 torn tail (verify), loss (crash-test) or another failure, 2 corrupt or missing segment, 3 cannot
/// read, 4 locked by another writer, 5 no space, 64 usage.
#[derive(Parser)]
#[command(name = "mmap-wal", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Append each line of standard input as a record, creating the log if there is none.
    Append(append::Args),
    /// Print the records.
    Replay(replay::Args),
    /// Print the records as they are appended.
    Tail(tail::Args),
    /// Say what the log is made of and how it ends.
    Stat(stat::Args),
    /// Show what a log that is open for writing does, again and again.
    Top(top::Args),
    /// Read everything and verify every checksum.
    Verify(verify::Args),
    /// List the frames of the segments as they stand, good or bad.
    Dump(dump::Args),
    /// Note durably that everything up to a record has been applied elsewhere.
    Checkpoint(checkpoint::Args),
    /// Remove the records up to one from the front.
    Truncate(truncate::Args),
    /// Copy the log to another directory, or bring such a copy up to date.
    Copy(copy::Args),
    /// Say what a repair would do about a damaged log, or do it.
    Repair(repair::Args),
    /// Copy every record that verifies into a new log.
    Salvage(salvage::Args),
    /// Kill a writer at random times, again and again, and check that nothing acknowledged is lost.
    CrashTest(crash_test::Args),
    /// Measure the log beside the least that this machine needs for the same.
    Bench(bench::Args),
    /// The process that bench starts beside itself.
    #[command(hide = true)]
    BenchChild(bench::child::Args),
    /// The writer that crash-test kills.
    #[command(hide = true)]
    CrashWriter(crash_test::writer::Args),
    /// The writer of several threads that crash-test kills.
    #[command(hide = true)]
    CrashMixer(crash_test::mixed::writer::Args),
    /// The repair that crash-test kills.
    #[command(hide = true)]
    CrashRepairer(crash_test::repair::repairer::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help that nobody reads is no failure.
            let _ = e.print();
            return if e.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match limits_are_errors().and_then(|()| run(&cli.command)) {
        Ok(code) => code.into(),
        Err(failure) => failure.report(),
    }
}

/// Lets a write that the limit on the size of files forbids fail, where `SIGXFSZ` would end the process: what the library
/// writes is compared with the limit before, but the output may go to a file, too.
fn limits_are_errors() -> Result<(), Failure> {
    // A handler that only sets a flag, and not `SIG_IGN`: this takes no unsafe code.
    let signal = rustix::process::Signal::XFSZ.as_raw();
    match signal_hook::flag::register(signal, Arc::default()) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::new(FAILED, format!("cannot handle SIGXFSZ: {e}; report this"))),
    }
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Append(args) => append::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Top(args) => top::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Checkpoint(args) => checkpoint::run(args),
        Command::Truncate(args) => truncate::run(args),
        Command::Copy(args) => copy::run(args),
        Command::Repair(args) => repair::run(args),
        Command::Salvage(args) => salvage::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BenchChild(args) => bench::child::run(args),
        Command::CrashTest(args) => crash_test::run(args),
        Command::CrashWriter(args) => crash_test::writer::run(args),
        Command::CrashMixer(args) => crash_test::mixed::writer::run(args),
        Command::CrashRepairer(args) => crash_test::repair::repairer::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_is_declared_without_contradiction() {
        super::Cli::command().debug_assert();
    }
}
