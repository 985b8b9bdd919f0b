//! What the writer is fed: records that follow from their numbers, so that a checker knows them.

use std::io::{self, Read};

use crate::crash_test::random::mix;

/// Bytes that are made at a time.
const CHUNK: usize = 64 << 10;

/// Writes the record `number` into `line`: the number, and padding whose length and letters follow from it.
pub(crate) fn record(seed: u64, number: u64, line: &mut Vec<u8>) {
    let bits = mix(seed ^ number);
    let padding = if bits.is_multiple_of(509) { 5000 } else { (bits >> 16) % 97 };
    line.clear();
    line.extend_from_slice(number.to_string().as_bytes());
    line.push(b' ');
    line.resize(line.len() + padding as usize, b'a' + (bits >> 8) as u8 % 26);
}

/// The records of a range of numbers, each a line.
pub(crate) struct Source {
    seed: u64,
    next: u64,
    last: u64,
    chunk: Vec<u8>,
    given: usize,
}

impl Source {
    /// The records from `next` to `last`.
    pub(crate) fn new(seed: u64, next: u64, last: u64) -> Self {
        Self { seed, next, last, chunk: Vec::new(), given: 0 }
    }

    fn refill(&mut self) {
        self.chunk.clear();
        self.given = 0;
        let mut line = Vec::new();
        while self.chunk.len() < CHUNK && self.next <= self.last {
            record(self.seed, self.next, &mut line);
            self.chunk.extend_from_slice(&line);
            self.chunk.push(b'\n');
            self.next += 1;
        }
    }
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() {
            self.refill();
        }
        let rest = &self.chunk[self.given..];
        let count = rest.len().min(to.len());
        to[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}
