//! The child: `append`, fed with records that the parent knows.

use std::io::stdout;

use crate::append;
use crate::crash_test::source::Source;
use crate::failure::Outcome;

/// Append generated records.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    append: append::Args,
    /// The first record.
    #[arg(long)]
    from: u64,
    /// The last record.
    #[arg(long)]
    lines: u64,
    /// What the padding follows from.
    #[arg(long)]
    seed: u64,
}

/// Appends until it is killed or done.
pub(crate) fn run(args: &Args) -> Outcome {
    append::feed(&args.append, Source::new(args.seed, args.from, args.lines), stdout().lock())
}
