//! Figures as text.

use std::fmt::Write;

use crate::bench::machine::Facts;
use crate::bench::report::Report;
use crate::bench::row::{Goal, Row, Unit};

/// Columns of names and of values.
const NAME: usize = 33;
const VALUE: usize = 11;

/// What the figures were taken on.
pub(crate) fn machine(facts: &Facts) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().fold(String::new(), |mut text, (name, fact)| {
        let _ = writeln!(text, "{name:width$}  {fact}");
        text
    })
}

/// What stands above the rows.
pub(crate) fn head() -> String {
    line("figure", ["ours", "floor", "ratio", "target"].map(str::to_owned), "met")
}

/// One figure.
pub(crate) fn row(row: &Row) -> String {
    let dash = || "-".to_owned();
    let as_value =
        |amount: f64| if row.floor_merged().is_some() { format!("{amount:.2}") } else { value(row.unit, amount) };
    let target = match row.goal {
        Goal::Low(Some(most)) => format!("<= {}", as_value(most)),
        Goal::High(Some(least)) => format!(">= {}", as_value(least)),
        Goal::Low(None) | Goal::High(None) => dash(),
    };
    let floor = row.floor_merged().map_or_else(dash, |floor| value(row.unit, floor));
    let ratio = row.ratio().map_or_else(dash, |ratio| format!("{ratio:.2}"));
    let met = row.is_met().map_or("-", |met| if met { "yes" } else { "NO" });
    line(&row.name, [value(row.unit, row.ours_merged()), floor, ratio, target], met)
}

/// What the rows mean, and how long each kind of operation took.
pub(crate) fn legend(report: &Report) -> String {
    let mut text = String::from("\n");
    for row in &report.rows {
        let floor = if row.floor.is_empty() { String::new() } else { format!("; floor: {}", row.floor) };
        let _ = writeln!(text, "{}: {}{floor}", row.name, row.what);
    }
    if !report.latencies.is_empty() {
        let shares = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];
        let _ = writeln!(
            text,
            "\n{}",
            line("latencies", ["50%", "90%", "99%", "99.9%"].map(str::to_owned), "99.99%, most")
        );
        for latency in &report.latencies {
            let [half, most @ .., rare, all] = shares.map(|share| value(Unit::Nanos, latency.at(share) as f64));
            let [ninety, hundredth, thousandth] = most;
            let rest = format!("{rare}, {all}");
            let _ = writeln!(text, "{}", line(&latency.name, [half, ninety, hundredth, thousandth], &rest));
        }
    }
    let _ = writeln!(text, "\n{} rounds, {} scale, {} s", report.rounds, report.scale, report.seconds);
    text
}

fn line(name: &str, values: [String; 4], last: &str) -> String {
    let values = values.map(|value| format!("{value:>VALUE$}")).join(" ");
    format!("{name:NAME$} {values}  {last}")
}

/// An amount with its unit, to three digits or so.
pub(crate) fn value(unit: Unit, amount: f64) -> String {
    match unit {
        Unit::Nanos => scaled(amount, 1000.0, &["ns", "us", "ms", "s"]),
        Unit::Bytes => scaled(amount, 1024.0, &["B", "KiB", "MiB", "GiB"]),
        Unit::Speed => scaled(amount, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s"]),
        Unit::Rate => scaled(amount, 1000.0, &["/s", "k/s", "M/s"]),
        Unit::Count if amount.fract() == 0.0 => format!("{amount}"),
        Unit::Count => format!("{amount:.2}"),
    }
}

fn scaled(mut amount: f64, factor: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while amount >= factor && unit + 1 < units.len() {
        amount /= factor;
        unit += 1;
    }
    let digits = match amount {
        _ if amount >= 100.0 || amount == 0.0 => 0,
        _ if amount >= 10.0 => 1,
        _ if amount >= 1.0 => 2,
        _ => 3,
    };
    format!("{amount:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::row::Round;

    #[test]
    fn amounts_have_three_digits_and_a_unit_that_suits_them() {
        assert_eq!(value(Unit::Nanos, 43.21), "43.2 ns");
        assert_eq!(value(Unit::Nanos, 92_345.0), "92.3 us");
        assert_eq!(value(Unit::Nanos, 7.2e12), "7200 s");
        assert_eq!(value(Unit::Bytes, 4608.0), "4.50 KiB");
        assert_eq!(value(Unit::Bytes, 0.126), "0.126 B");
        assert_eq!(value(Unit::Speed, 5.25e9), "5.25 GB/s");
        assert_eq!(value(Unit::Rate, 123_456.0), "123 k/s");
        assert_eq!([value(Unit::Count, 3.0), value(Unit::Count, 0.256)], ["3", "0.26"]);
    }

    #[test]
    fn a_row_says_what_was_wanted_and_whether_it_was_reached() {
        let beside = Row::new("append", "", Unit::Nanos, Goal::Low(Some(1.2))).rounds(vec![Round::beside(50.0, 40.0)]);
        let words = |row: &Row| super::row(row).split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&beside), "append 50.0 ns 40.0 ns 1.25 <= 1.20 NO");
        let alone = Row::new("bytes", "", Unit::Bytes, Goal::Low(Some(4608.0))).rounds(vec![Round::alone(4096.0)]);
        assert_eq!(words(&alone), "bytes 4.00 KiB - - <= 4.50 KiB yes");
        let aimless = Row::new("speed", "", Unit::Speed, Goal::High(None)).rounds(vec![Round::beside(2e9, 1e9)]);
        assert_eq!(words(&aimless), "speed 2.00 GB/s 1.00 GB/s 2.00 - -");
    }
}
