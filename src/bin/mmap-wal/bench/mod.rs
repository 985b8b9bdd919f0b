//! `bench`: what this log costs on this machine, beside what nobody could do without.
//!
//! A figure by itself tells of the machine. Here each one is taken in rounds, and in every round the floor is taken too:
//! the least work that has the same effect. What counts is the ratio.

pub(crate) mod child;
mod compare;
mod counters;
mod figure;
mod floor;
mod ground;
mod latency;
mod machine;
mod open_loop;
mod plot;
mod report;
mod row;
mod table;

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use crate::bench::compare::compare;
use crate::bench::figure::{FIGURES, Figure};
use crate::bench::ground::{Ground, Scale};
use crate::bench::machine::{facts, warm};
use crate::bench::plot::plot;
use crate::bench::report::{Report, write_file};
use crate::failure::{Code, FAILED, Failure, OK, Outcome, USAGE};

/// Measure this log beside the least that the machine needs for the same, in turn.
///
/// Every figure is taken in rounds, in each of which its floor is taken as well, and judged by the ratio. Figures of a
/// machine that does something else meanwhile say little. A normal run takes about ten minutes, mostly of open loops, and
/// 2 GiB of disk.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A directory on the disk that is to be measured; what is written goes into a directory of its own there, which is
    /// removed at the end. By default the temporary one, which may be memory and then says nothing of a disk.
    dir: Option<PathBuf>,
    /// Only these figures: see --list.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// List the figures, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Do as little as shows that it can be done; the figures mean nothing.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Take more time and space where that tells more: 100 million records for the heap.
    #[arg(long)]
    full: bool,
    /// Rounds of every figure.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Write everything to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take the figures from a file that --json wrote, and measure nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "only", "quick", "full", "json"])]
    from: Option<PathBuf>,
    /// Draw the latencies of the sync modes to a file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Compare with the figures in a file that --json wrote: exit with 1 if a ratio is worse by more than the tolerance,
    /// and by more than the noise of the rounds.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// By how many percent a ratio may be worse.
    #[arg(long, value_name = "PERCENT", default_value_t = 15, value_parser = clap::value_parser!(u16).range(0..=1000))]
    tolerance: u16,
}

/// Measures or reads figures, and does with them what is asked for.
pub(crate) fn run(args: &Args) -> Outcome {
    if args.list {
        FIGURES.iter().try_for_each(|figure| say(&format!("{:18} {}", figure.name, figure.what)))?;
        return Ok(OK);
    }
    // What cannot be read is told before minutes have passed.
    let recorded = args.against.as_deref().map(Report::read).transpose()?;
    let report = match &args.from {
        Some(path) => read(path, args)?,
        None => measure(args)?,
    };
    args.json.as_deref().map_or(Ok(()), |path| report.write(path))?;
    if let Some(path) = &args.plot {
        let sentence = "there are no latencies to plot; measure append-sync, append-batch-open and append-none-open";
        let svg = plot(&report).ok_or_else(|| Failure::new(FAILED, sentence))?;
        write_file(path, &svg)?;
    }
    recorded.map_or(Ok(OK), |recorded| hold_against(args, &recorded, &report))
}

fn read(path: &std::path::Path, args: &Args) -> Result<Report, Failure> {
    let report = Report::read(path)?;
    if args.plot.is_none() && args.against.is_none() {
        say(&table::machine(&report.machine))?;
        say(&table::head())?;
        report.rows.iter().try_for_each(|row| say(&table::row(row)))?;
        say(table::legend(&report).trim_end())?;
    }
    Ok(report)
}

fn measure(args: &Args) -> Result<Report, Failure> {
    let figures = chosen(&args.only)?;
    let scale = match (args.quick, args.full) {
        (true, _) => Scale::Quick,
        (_, true) => Scale::Full,
        _ => Scale::Normal,
    };
    let start = Instant::now();
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let ground = Ground::new(&dir, scale, args.rounds.into())?;
    let mut facts = facts(&dir);
    let touched = ground.pick(16 << 20, 1 << 30, 1 << 30);
    if let Some([first, second]) = warm(touched) {
        let fact = format!("{first:?} for a page, and {second:?} the next time; {} MiB touched", touched >> 20);
        facts.push(("first touch".to_owned(), fact));
    }
    let mut report = Report::new(facts, scale, ground.rounds);
    say(&table::machine(&report.machine))?;
    say(&table::head())?;
    for figure in figures {
        let measured = (figure.measure)(&ground)?;
        measured.rows.iter().try_for_each(|row| say(&table::row(row)))?;
        measured.notes.iter().try_for_each(|note| say(&format!("left out: {note}")))?;
        report.rows.extend(measured.rows);
        report.latencies.extend(measured.latencies);
    }
    report.took(start.elapsed());
    say(table::legend(&report).trim_end())?;
    Ok(report)
}

/// The figures of these names, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Figure>, Failure> {
    if names.is_empty() {
        return Ok(FIGURES.iter().collect());
    }
    let named = |name: &String| {
        FIGURES.iter().find(|figure| figure.name == name).ok_or_else(|| {
            Failure::new(USAGE, format!("there is no figure {name:?}; `mmap-wal bench --list` lists them"))
        })
    };
    names.iter().map(named).collect()
}

fn hold_against(args: &Args, recorded: &Report, report: &Report) -> Outcome {
    let tolerance = f64::from(args.tolerance) / 100.0;
    let Some((text, worse)) = compare(recorded, report, tolerance) else {
        return Err(Failure::new(FAILED, "the two runs have no figure in common; measure what was recorded"));
    };
    if recorded.scale != report.scale {
        say(&format!("recorded at {} scale, and compared at {} scale", recorded.scale, report.scale))?;
    }
    say(text.trim_end())?;
    if worse {
        let sentence =
            format!("a ratio is worse by more than {} percent and than its noise; see above", args.tolerance);
        crate::failure::complain(&sentence);
        return Ok(Code(FAILED));
    }
    Ok(OK)
}

fn say(line: &str) -> Result<(), Failure> {
    let mut output = stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(|e| Failure::output(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_chosen_by_name_and_an_unknown_one_is_refused() {
        assert_eq!(chosen(&[]).unwrap().len(), FIGURES.len());
        let some = chosen(&["group".to_owned(), "append-none".to_owned()]).unwrap();
        assert_eq!(some.iter().map(|figure| figure.name).collect::<Vec<_>>(), ["group", "append-none"]);
        assert!(chosen(&["append".to_owned()]).is_err());
    }

    #[test]
    fn no_two_figures_have_the_same_name() {
        let names: std::collections::BTreeSet<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }
}
