//! Records from a stream: what stands between separators.

use std::io::{self, ErrorKind, Read};

const BUFFER: usize = 256 << 10;

/// Splits `input` at every separator; what follows the last one counts if it is not empty.
pub(crate) struct Records<R> {
    input: R,
    separator: u8,
    buffer: Vec<u8>,
    /// What was read and not given out.
    start: usize,
    end: usize,
    /// Where the record at `start` ends, if that was read.
    found: Option<usize>,
    ended: bool,
}

impl<R: Read> Records<R> {
    /// The records of `input`.
    pub(crate) fn new(input: R, separator: u8) -> Self {
        Self { input, separator, buffer: vec![0; BUFFER], start: 0, end: 0, found: None, ended: false }
    }

    /// Whether the next record is here already, so that [`Records::next`] will not wait for input.
    pub(crate) fn is_ready(&self) -> bool {
        self.found.is_some()
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        while self.found.is_none() && !self.ended {
            let searched = self.end - self.start;
            self.read_more()?;
            self.found = self.position(self.start + searched);
        }
        let (start, end) = (self.start, self.found.unwrap_or(self.end));
        if self.found.is_none() && start == end {
            return Ok(None);
        }
        self.start = (end + 1).min(self.end);
        self.found = self.position(self.start);
        Ok(Some(&self.buffer[start..end]))
    }

    fn position(&self, from: usize) -> Option<usize> {
        let bytes = &self.buffer[from..self.end];
        bytes.iter().position(|byte| *byte == self.separator).map(|index| from + index)
    }

    /// Reads behind what is there, which is the beginning of one record.
    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.ended = count == 0;
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], step: usize) -> Vec<Vec<u8>> {
        struct Steps<'a>(&'a [u8], usize);
        impl Read for Steps<'_> {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(to.len());
                to[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        let mut records = Records::new(Steps(input, step), b'\n');
        let mut found = Vec::new();
        while let Some(record) = records.next().unwrap() {
            found.push(record.to_vec());
        }
        found
    }

    #[test]
    fn every_line_is_a_record_and_so_is_an_empty_one_and_a_last_one_without_an_end() {
        for step in [1, 2, 3, 1000] {
            assert_eq!(all(b"", step), Vec::<Vec<u8>>::new());
            assert_eq!(all(b"\n", step), [b""]);
            assert_eq!(all(b"a\n\nb", step), [&b"a"[..], b"", b"b"]);
            assert_eq!(all(b"a\nb\n", step), [b"a", b"b"]);
        }
    }

    #[test]
    fn lines_longer_than_the_buffer_and_across_its_end_are_whole() {
        let lines: Vec<Vec<u8>> = [10, BUFFER - 5, BUFFER * 5, 0, BUFFER, 7].iter().map(|n| vec![b'x'; *n]).collect();
        let joined = lines.join(&b'\n');
        assert_eq!(all(&joined, 8000), lines);
        assert_eq!(all(&joined, usize::MAX), lines);
    }
}
