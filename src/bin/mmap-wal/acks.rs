//! What was acknowledged, one number per line.

use std::io::Write;

use mmap_wal::Wal;

use crate::failure::Failure;

/// How many acknowledgements may wait for one sync.
const GROUP: u64 = 4096;

/// Prints sequence numbers as they are acknowledged.
pub(crate) struct Acks<W> {
    output: W,
    quiet: bool,
    /// Whether a number is held back until it is durable.
    hold: bool,
    /// The numbers that are held back.
    first: u64,
    count: u64,
    text: Vec<u8>,
}

impl<W: Write> Acks<W> {
    /// Prints to `output`, unless `quiet`; with `hold`, only what is durable.
    pub(crate) fn new(output: W, quiet: bool, hold: bool) -> Self {
        Self { output, quiet, hold, first: 0, count: 0, text: Vec::new() }
    }

    /// `seq` was appended.
    pub(crate) fn add(&mut self, wal: &Wal, seq: u64) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        if !self.hold {
            self.note(seq);
            return self.print();
        }
        if self.count == 0 {
            self.first = seq;
        }
        self.count += 1;
        if self.count < GROUP { Ok(()) } else { self.flush(wal) }
    }

    /// Makes durable what is held back, and prints it.
    pub(crate) fn flush(&mut self, wal: &Wal) -> Result<(), Failure> {
        if self.count == 0 {
            return Ok(());
        }
        let numbers = self.first..self.first + self.count;
        wal.sync_to(numbers.end - 1)?;
        self.count = 0;
        numbers.for_each(|seq| self.note(seq));
        self.print()
    }

    fn note(&mut self, seq: u64) {
        // Writing to a vector does not fail.
        let _ = writeln!(self.text, "{seq}");
    }

    fn print(&mut self) -> Result<(), Failure> {
        let printed = self.output.write_all(&self.text).and_then(|()| self.output.flush());
        self.text.clear();
        printed.map_err(|e| Failure::output(&e))
    }
}
