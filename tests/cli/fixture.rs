//! A log in a temporary directory, and runs of the command line on it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub struct Fixture {
    dir: tempfile::TempDir,
}

/// What a command came to.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmap-wal"));
    command.args(args);
    command
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn run(args: &[&str]) -> Ran {
    ran(command(args).stdin(Stdio::null()).output().expect("a run"))
}

pub fn run_with(args: &[&str], input: &[u8]) -> Ran {
    let mut child =
        command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a child");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // The command may refuse before it has read everything.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("its output");
    feeder.join().expect("the feeder");
    ran(output)
}

impl Ran {
    /// Success that says nothing on standard error.
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self.stdout
    }

    /// A failure of one sentence that holds `part`; returns what was printed before.
    pub fn failed(self, code: i32, part: &str) -> String {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("mmap-wal: ") && self.stderr.contains(part), "{}", self.stderr);
        self.stdout
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    /// With a log of the lines 1 to `count`, in small segments, closed.
    pub fn with_lines(count: u64) -> Self {
        let fixture = Self::new();
        let lines: String = (1..=count).map(|n| format!("{n}\n")).collect();
        let args = ["append", &fixture.log(), "--segment-size", "12KiB", "--sync-mode", "none", "--quiet"];
        assert_eq!(run_with(&args, lines.as_bytes()).ok(), "");
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        self.path("log").to_string_lossy().into_owned()
    }

    pub fn segment(&self, ordinal: u64) -> PathBuf {
        self.path("log").join(format!("{ordinal:020}.wal"))
    }

    pub fn flip(&self, ordinal: u64, offset: u64) {
        let file = writable(&self.segment(ordinal));
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("a byte");
        file.write_all_at(&[byte[0] ^ 0x40], offset).expect("another byte");
    }

    pub fn stat(&self) -> Value {
        serde_json::from_str(&run(&["stat", "--json", &self.log()]).ok()).expect("JSON")
    }
}

pub fn writable(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the file")
}

pub fn lines(numbers: std::ops::RangeInclusive<u64>) -> String {
    numbers.map(|n| format!("{n}\n")).collect()
}

/// A writer that waits for more input, after it has acknowledged `count` lines.
pub fn living_writer(fixture: &Fixture, count: u64, extra: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let log = fixture.log();
    let mut args = vec!["append", &log, "--segment-size", "12KiB"];
    args.extend(extra);
    let mut child = command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a writer");
    let stdin = child.stdin.as_mut().expect("its input");
    stdin.write_all(lines(1..=count).as_bytes()).expect("lines");
    stdin.flush().expect("a flush");
    let mut acks = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    while line.trim() != count.to_string() {
        line.clear();
        assert_ne!(acks.read_line(&mut line).expect("an acknowledgement"), 0);
    }
    (child, acks)
}

pub fn kill(mut child: Child) {
    child.kill().expect("a kill");
    child.wait().expect("an end");
}
