//! Follows the log of another process: prints each record when it is appended.
//!
//! ```sh
//! cargo run --example tail -- data            # from the front
//! cargo run --example tail -- data 1000       # from behind the record 1000
//! ```
//!
//! A consumer like this one keeps the number of the last record it has dealt with beside its own state, and begins
//! behind it when it starts again.

use std::process::ExitCode;
use std::time::Duration;

use mmap_wal::{Error, Reader, Record, Tail};

/// Hands every record to `take`, for as long as that returns `true`.
///
/// # Errors
/// What the log says, but for what a consumer can go on behind.
pub fn follow(tail: &mut Tail, mut take: impl FnMut(Record<'_>) -> bool) -> Result<(), Error> {
    loop {
        let missed = match drain(tail, &mut take) {
            Ok(true) => tail.wait(Duration::from_secs(1)).err(),
            Ok(false) => return Ok(()),
            Err(e) => Some(e),
        };
        match missed {
            None => {}
            // A real consumer would fetch the state before `first_seq` from elsewhere.
            Some(Error::Truncated { first_seq }) => tail.seek(first_seq - 1)?,
            // And here it would undo what it did for the records above `last_seq`.
            Some(Error::TruncatedBack { last_seq }) => tail.seek(last_seq)?,
            Some(e) => return Err(e),
        }
    }
}

/// Takes what is there; returns whether more is wanted.
fn drain(tail: &mut Tail, take: &mut impl FnMut(Record<'_>) -> bool) -> Result<bool, Error> {
    while let Some(record) = tail.try_next()? {
        if !take(record) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(dir), after) = (args.next(), args.next().map_or(Ok(0), |after| after.parse())) else {
        eprintln!("usage: tail DIR [AFTER]");
        return ExitCode::FAILURE;
    };
    let Ok(after) = after else {
        eprintln!("tail: AFTER is a record's number");
        return ExitCode::FAILURE;
    };
    let print = |record: Record<'_>| {
        println!("{}\t{}", record.seq(), String::from_utf8_lossy(record.payload()));
        true
    };
    match Reader::open(dir).and_then(|reader| reader.tail(after)).and_then(|mut tail| follow(&mut tail, print)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tail: {e}");
            ExitCode::FAILURE
        }
    }
}
