//! The writer, or the repair, as its parent sees it: started, listened to, killed.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::crash_test::rounds::Setup;

/// How long a writer may take until it is at work.
const PATIENCE: Duration = Duration::from_secs(60);
/// The signal that cannot be caught.
const SIGKILL: i32 = 9;

/// A writer that is running, and what is made of what it says.
pub(crate) struct Writer<T> {
    process: Child,
    moment: Receiver<()>,
    listener: JoinHandle<io::Result<T>>,
}

/// What a writer did until it ended.
pub(crate) struct Ended<T> {
    /// What was made of what it said.
    pub(crate) heard: T,
    /// Whether it was alive when it was killed.
    pub(crate) killed: bool,
}

/// By which a listener tells that the writer is at work, and that what is waited for has come.
pub(crate) struct Heard(Sender<()>);

impl Heard {
    /// Tells it.
    pub(crate) fn tell(&self) {
        // Nobody may be waiting for it.
        let _ = self.0.send(());
    }
}

impl<T: Send + 'static> Writer<T> {
    /// Starts a writer, and listens to it until it is gone.
    pub(crate) fn start(
        command: &mut Command,
        listen: impl FnOnce(ChildStdout, &Heard) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Self> {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (tell, moment) = channel();
        let listener = std::thread::spawn(move || listen(stdout, &Heard(tell)));
        Ok(Self { process, moment, listener })
    }

    /// Kills the writer after `time`.
    pub(crate) fn kill_after(self, time: Duration) -> io::Result<Ended<T>> {
        std::thread::sleep(time);
        self.kill()
    }

    /// Waits until the listener tells that the writer is at work, and kills it `time` later.
    pub(crate) fn kill_at_work(self, time: Duration) -> io::Result<Ended<T>> {
        self.kill_at_moment(Duration::ZERO, time)
    }

    /// Waits until the listener tells that the writer is at work, and then, at most for `patience`, until it tells of the
    /// moment that is waited for; kills the writer `time` later.
    pub(crate) fn kill_at_moment(self, patience: Duration, time: Duration) -> io::Result<Ended<T>> {
        match self.moment.recv_timeout(PATIENCE) {
            // If it has ended by itself, the kill shows how.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                // On a slow machine the moment may be far off, and any other one will do.
                let _ = self.moment.recv_timeout(patience);
                self.kill_after(time)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.kill()?;
                Err(io::Error::other(format!("the writer did nothing for {} s", PATIENCE.as_secs())))
            }
        }
    }

    /// Kills the writer and hears it out.
    fn kill(mut self) -> io::Result<Ended<T>> {
        self.process.kill()?;
        self.finish()
    }

    /// Hears the writer out until it ends.
    pub(crate) fn finish(mut self) -> io::Result<Ended<T>> {
        let status = self.process.wait()?;
        let heard = self.listener.join().map_err(|_| io::Error::other("the listener failed"))??;
        match (status.signal(), status.code()) {
            (Some(SIGKILL), _) => Ok(Ended { heard, killed: true }),
            (None, Some(0)) => Ok(Ended { heard, killed: false }),
            _ => Err(io::Error::other(format!("the writer ended by itself with {status}"))),
        }
    }
}

/// This program as the writer `name` of the log.
pub(crate) fn writer_command(setup: &Setup, name: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(name).arg(&setup.dir).args(["--sync-mode", setup.log.sync_mode.as_str()]);
    for (option, value) in [("--segment-size", setup.log.segment_size), ("--seed", setup.seed)] {
        command.arg(option).arg(value.to_string());
    }
    Ok(command)
}
