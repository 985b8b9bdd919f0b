//! `dump`: the frames as they stand.

use std::io::{self, BufWriter, Write, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::{Log, RawFrame};

use crate::failure::{Code, Failure, OK, Outcome, code_of, complain, sentence_of};
use crate::text::beginning;

/// How much of a payload is shown.
const SHOWN: usize = 32;

/// List the frames of the segments as they stand, good or bad.
///
/// One line each, separated by tabs: offset, seq, length, commit or -, tag, the offset D below which the file was
/// durable when the frame was written or -, ok or bad, and the beginning of the payload.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The number of a segment, or the name of its file; all that the manifest names if not given.
    #[arg(value_parser = ordinal)]
    segment: Option<u64>,
}

fn ordinal(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix(".wal").unwrap_or(text);
    digits.parse().map_err(|_| "give the number of a segment, or the name of its file".to_owned())
}

/// Lists the frames; segments that cannot be read are said and passed over.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let mut output = BufWriter::new(stdout().lock());
    let ordinals = args.segment.map_or_else(|| log.ordinals(), |ordinal| Ok(vec![ordinal]))?;
    let mut code = OK;
    for ordinal in ordinals {
        match log.frames(ordinal) {
            Ok(frames) => {
                write_segment(&mut output, ordinal, frames).map_err(|e| Failure::output(&e))?;
            }
            Err(e) => {
                output.flush().map_err(|e| Failure::output(&e))?;
                complain(&sentence_of(&e));
                code = Code(code_of(&e));
            }
        }
    }
    output.flush().map_err(|e| Failure::output(&e))?;
    Ok(code)
}

fn write_segment(output: &mut impl Write, ordinal: u64, frames: impl Iterator<Item = RawFrame>) -> io::Result<()> {
    writeln!(output, "# segment {ordinal}")?;
    for frame in frames {
        let commit = if frame.commit { "commit" } else { "-" };
        let durable = frame.durable_offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        let verdict = if frame.verifies { "ok" } else { "bad" };
        let payload = beginning(&frame.payload, SHOWN);
        let RawFrame { offset, seq, len, tag, .. } = frame;
        writeln!(output, "{offset}\t{seq}\t{len}\t{commit}\t{tag}\t{durable}\t{verdict}\t{payload}")?;
    }
    Ok(())
}
