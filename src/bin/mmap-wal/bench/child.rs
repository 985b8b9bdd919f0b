//! This program as another process, for figures that need one.

use std::io::{self, BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use clap::ValueEnum;

use crate::bench::figure::{receive, weigh};
use crate::failure::{Failure, OK, Outcome};

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Follows a log and says how old each record is.
    Receive,
    /// Appends, and says how its memory has grown.
    HeapWriter,
    /// Reads, and says how its memory has grown.
    HeapReader,
}

/// The process that `bench` starts beside itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    role: Role,
    /// The directory of the log.
    dir: PathBuf,
    /// How many records there are.
    count: u64,
}

/// Does what the role says.
pub(crate) fn run(args: &Args) -> Outcome {
    let mut output = stdout().lock();
    if args.role == Role::Receive {
        receive(&args.dir, args.count, &mut output)?;
    } else {
        let grown = weigh(args.role, &args.dir, args.count)?;
        writeln!(output, "{grown}").map_err(|e| Failure::output(&e))?;
    }
    output.flush().map_err(|e| Failure::output(&e))?;
    Ok(OK)
}

/// A child that is running.
pub(crate) struct Child {
    process: std::process::Child,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// The command that starts this program as a child.
    pub(crate) fn command(role: Role, dir: &Path, count: u64) -> io::Result<Command> {
        let role = role.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench-child", &role]).arg(dir).arg(count.to_string()).stdin(Stdio::null());
        Ok(command)
    }

    /// Starts one.
    pub(crate) fn start(role: Role, dir: &Path, count: u64) -> io::Result<Self> {
        let mut process = Self::command(role, dir, count)?.stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Waits until it has ended well.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("a child ended with {status}"))) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended long ago, and must not outlive this in any case.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
