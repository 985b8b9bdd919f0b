//! What a command comes to: an exit code, and a sentence if it failed.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use mmap_wal::{Error, IoFailure, Operation};

/// Everything else that fails, a torn tail, and a loss.
pub(crate) const FAILED: u8 = 1;
/// Corrupt or missing segments, or not known what the log is.
pub(crate) const CORRUPT: u8 = 2;
/// Something cannot be read.
pub(crate) const UNREADABLE: u8 = 3;
/// Another writer has the log.
const LOCKED: u8 = 4;
/// No space left.
const NO_SPACE: u8 = 5;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 64;

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u8);

/// All went well.
pub(crate) const OK: Code = Code(0);

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        code.0.into()
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<Code, Failure>;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Nothing is said if nobody listens any more.
    sentence: Option<String>,
}

impl Failure {
    /// A failure with a sentence of its own.
    pub(crate) fn new(code: u8, sentence: impl Into<String>) -> Self {
        Self { code, sentence: Some(sentence.into()) }
    }

    /// Standard output was not taken: if it was closed, that is how it ends.
    pub(crate) fn output(e: &io::Error) -> Self {
        match e.kind() {
            ErrorKind::BrokenPipe => Self { code: 0, sentence: None },
            ErrorKind::StorageFull => Self::new(NO_SPACE, "there is no space for the output; free some and try again"),
            ErrorKind::FileTooLarge => Self::new(
                NO_SPACE,
                "the output may not become longer; raise the limit on the size of files (`ulimit -f`) and try again",
            ),
            _ => Self::new(FAILED, format!("cannot write to standard output: {e}; check where it goes")),
        }
    }

    /// Standard input cannot be read.
    pub(crate) fn input(e: &io::Error) -> Self {
        Self::new(UNREADABLE, format!("cannot read standard input: {e}; check where it comes from"))
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_quiet(&self) -> bool {
        self.sentence.is_none()
    }

    /// Says the sentence, and turns into the exit code.
    pub(crate) fn report(self) -> ExitCode {
        self.sentence.as_deref().inspect(|sentence| complain(sentence));
        self.code.into()
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::new(code_of(&e), sentence_of(&e))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.sentence.as_deref().unwrap_or("the output was closed"))
    }
}

/// Says one sentence on standard error; if that is closed, nobody wants to know.
pub(crate) fn complain(sentence: &str) {
    let _ = writeln!(io::stderr().lock(), "mmap-wal: {sentence}");
}

/// The exit code for an error of the log.
pub(crate) fn code_of(e: &Error) -> u8 {
    match e {
        Error::Corrupt(_) | Error::MissingSegment(_) | Error::NoManifest { .. } => CORRUPT,
        Error::StaleManifest(_) | Error::Foreign(_) | Error::Version { .. } | Error::UnfinishedCopy { .. } => CORRUPT,
        Error::Io(failure) => match failure.operation {
            Operation::Open | Operation::Read | Operation::List | Operation::Map => UNREADABLE,
            Operation::Rebuild => CORRUPT,
            _ => FAILED,
        },
        Error::MapLimit(_) => UNREADABLE,
        Error::Locked { .. } => LOCKED,
        Error::NoSpace(_) => NO_SPACE,
        Error::InvalidOptions(_) => USAGE,
        _ => FAILED,
    }
}

/// The sentence for an error of the log, with what to do next.
pub(crate) fn sentence_of(e: &Error) -> String {
    match e {
        Error::Io(failure) => format!("{e}; {}", advice(failure)),
        _ => e.to_string(),
    }
}

fn advice(failure: &IoFailure) -> &'static str {
    match failure.source.kind() {
        _ if failure.operation == Operation::Rebuild => "restore the whole directory from one backup",
        ErrorKind::AlreadyExists => "give a directory that is empty or not there",
        ErrorKind::NotFound if failure.source.raw_os_error().is_none() => "append something to create one",
        ErrorKind::NotFound => "check the path",
        ErrorKind::NotADirectory => "give the directory of a log",
        ErrorKind::PermissionDenied => "check who may read and write there",
        ErrorKind::ReadOnlyFilesystem => "use a file system that can be written to",
        _ => "check the file and the disk, and try again",
    }
}
