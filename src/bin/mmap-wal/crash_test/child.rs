//! The writer as its parent sees it: started, listened to, killed.

use std::io::{self, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::crash_test::rounds::Setup;

/// How long a writer may take to its first acknowledgement.
const PATIENCE: Duration = Duration::from_secs(60);
/// The signal that cannot be caught.
const SIGKILL: i32 = 9;

/// A writer that is running.
pub(crate) struct Writer {
    process: Child,
    first: Receiver<()>,
    listener: JoinHandle<io::Result<u64>>,
}

/// What a writer did until it ended.
pub(crate) struct Ended {
    /// The last number that it acknowledged; 0 if none.
    pub(crate) acked: u64,
    /// Whether it was alive when it was killed.
    pub(crate) killed: bool,
}

impl Writer {
    /// Starts a writer that goes on with the record `from`.
    pub(crate) fn start(setup: &Setup, from: u64) -> io::Result<Self> {
        let mut process = command(setup, from)?.spawn()?;
        let stdout = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (tell, first) = channel();
        let listener = std::thread::spawn(move || listen(stdout, &tell));
        Ok(Self { process, first, listener })
    }

    /// Waits for the first acknowledgement, or the end of the writer.
    pub(crate) fn wait_for_first(&self) {
        // Either way the next thing is the kill.
        let _ = self.first.recv_timeout(PATIENCE);
    }

    /// Kills the writer and hears it out.
    pub(crate) fn kill(mut self) -> io::Result<Ended> {
        self.process.kill()?;
        let status = self.process.wait()?;
        let acked = self.listener.join().map_err(|_| io::Error::other("the listener failed"))??;
        match (status.signal(), status.code()) {
            (Some(SIGKILL), _) => Ok(Ended { acked, killed: true }),
            (None, Some(0)) => Ok(Ended { acked, killed: false }),
            _ => Err(io::Error::other(format!("the writer ended by itself with {status}"))),
        }
    }
}

fn command(setup: &Setup, from: u64) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("crash-writer").arg(&setup.dir).stdin(Stdio::null()).stdout(Stdio::piped());
    command.args(["--sync-mode", setup.log.sync_mode.as_str()]);
    let numbers = [
        ("--segment-size", setup.log.segment_size),
        ("--from", from),
        ("--lines", setup.lines),
        ("--seed", setup.seed),
    ];
    for (option, value) in numbers.into_iter().chain(setup.batch.map(|count| ("--batch", count))) {
        command.arg(option).arg(value.to_string());
    }
    Ok(command)
}

/// Reads numbers until the writer is gone; returns the last whole line.
fn listen(stdout: ChildStdout, first: &Sender<()>) -> io::Result<u64> {
    let mut stdout = BufReader::new(stdout);
    let (mut acked, mut number) = (0, 0_u64);
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = stdout.read(&mut bytes)?;
        if count == 0 {
            return Ok(acked);
        }
        for byte in &bytes[..count] {
            if *byte == b'\n' {
                if acked == 0 {
                    // The parent may not be waiting for it.
                    let _ = first.send(());
                }
                acked = number;
                number = 0;
            } else {
                number = number.wrapping_mul(10).wrapping_add(u64::from(byte.wrapping_sub(b'0')));
            }
        }
    }
}
