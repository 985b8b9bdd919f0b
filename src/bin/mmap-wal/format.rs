//! How records are printed.

use std::io::{self, Write};

use mmap_wal::Record;

use crate::text::base64;

/// How records are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Format {
    /// Print SEQ, a tab and the payload.
    #[arg(long, conflicts_with = "json")]
    with_seq: bool,
    /// Print a JSON object per record; payloads that are not UTF-8 are in base64.
    #[arg(long)]
    json: bool,
    /// End records with a NUL byte and not with a newline.
    #[arg(long)]
    null: bool,
}

impl Format {
    /// Prints one record.
    pub(crate) fn print(self, record: &Record<'_>, output: &mut impl Write) -> io::Result<()> {
        if self.json {
            print_json(record, output)?;
        } else {
            if self.with_seq {
                write!(output, "{}\t", record.seq())?;
            }
            output.write_all(record.payload())?;
        }
        output.write_all(if self.null { b"\0" } else { b"\n" })
    }
}

fn print_json(record: &Record<'_>, output: &mut impl Write) -> io::Result<()> {
    let payload = record.payload();
    write!(output, "{{\"seq\":{},\"len\":{},", record.seq(), payload.len())?;
    match std::str::from_utf8(payload) {
        Ok(text) => {
            output.write_all(b"\"payload\":")?;
            serde_json::to_writer(&mut *output, text)?;
            output.write_all(b"}")
        }
        Err(_) => write!(output, "\"payload_base64\":\"{}\"}}", base64(payload)),
    }
}
