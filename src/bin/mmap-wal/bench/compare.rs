//! A run held against an earlier one: ratios to floors, because machines differ, and only what is more than noise.

use std::fmt::Write;

use crate::bench::report::Report;
use crate::bench::row::{Goal, Row, quantile};

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Worse by more than the tolerance, and the rounds agree on it.
    Worse,
    /// Worse by more than the tolerance, but the rounds of the two runs overlap.
    Noise,
    /// Within the tolerance.
    Same,
    /// Better by more than the tolerance.
    Better,
}

impl Change {
    fn as_str(self) -> &'static str {
        match self {
            Self::Worse => "WORSE",
            Self::Noise => "noise",
            Self::Same => "same",
            Self::Better => "better",
        }
    }
}

/// Whatever is so small beside a target is as good as nothing: a tenth of it.
const NEGLIGIBLE: f64 = 0.1;

/// What there is to say about the figures that both have, and whether any has become worse; `None` if there are none.
pub(crate) fn compare(old: &Report, new: &Report, tolerance: f64) -> Option<(String, bool)> {
    let both: Vec<(&Row, &Row)> = new.rows.iter().filter_map(|row| Some((old.row(&row.name)?, row))).collect();
    if both.is_empty() {
        return None;
    }
    let mut text = format!("{:33} {:>10} {:>10} {:>8}\n", "figure", "recorded", "now", "worse by");
    let mut worse = false;
    for (old, new) in both {
        let change = judge(old, new, tolerance);
        worse |= change == Change::Worse;
        let by = 100.0 * worse_by(old, new);
        let (recorded, now) = (old.judged(), new.judged());
        let _ = writeln!(text, "{:33} {recorded:>10.3} {now:>10.3} {by:>7.1}%  {}", new.name, change.as_str());
    }
    Some((text, worse))
}

/// What became of a figure: worse only if it is so by more than `tolerance`, a share of the recorded value, and if the
/// better quarter of the new rounds is still worse than the worse quarter of the recorded ones.
fn judge(old: &Row, new: &Row, tolerance: f64) -> Change {
    let by = worse_by(old, new);
    if by < -tolerance {
        return Change::Better;
    }
    if by <= tolerance {
        return Change::Same;
    }
    let (mut recorded, mut now) = (old.judged_rounds(), new.judged_rounds());
    let apart = match new.goal {
        Goal::Low(_) => quantile(&mut now, 0.25) > quantile(&mut recorded, 0.75),
        Goal::High(_) => quantile(&mut now, 0.75) < quantile(&mut recorded, 0.25),
    };
    if apart { Change::Worse } else { Change::Noise }
}

/// By what share of the recorded value the new one is worse; negative if it is better.
fn worse_by(old: &Row, new: &Row) -> f64 {
    let (recorded, now) = (old.judged(), new.judged());
    match new.goal {
        Goal::Low(target) => {
            let least = target.map_or(f64::MIN_POSITIVE, |target| target * NEGLIGIBLE);
            now.max(least) / recorded.max(least) - 1.0
        }
        Goal::High(_) => recorded / now.max(f64::MIN_POSITIVE) - 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::row::{Round, Unit};

    fn low(ratios: &[f64]) -> Row {
        let rounds = ratios.iter().map(|ratio| Round::beside(ratio * 50.0, 50.0)).collect();
        Row::new("append", "", Unit::Nanos, Goal::Low(Some(1.2))).rounds(rounds)
    }

    fn high(ratios: &[f64]) -> Row {
        Row { goal: Goal::High(Some(0.85)), ..low(ratios) }
    }

    fn report(row: Row) -> Report {
        Report { rows: vec![row], ..Report::default() }
    }

    #[test]
    fn a_figure_is_worse_if_it_is_so_beyond_the_tolerance_and_the_noise() {
        let recorded = low(&[1.0, 1.1, 1.2, 1.1]);
        assert_eq!(judge(&recorded, &recorded, 0.1), Change::Same);
        assert_eq!(judge(&recorded, &low(&[1.15, 1.2, 1.2, 1.2]), 0.1), Change::Same);
        assert_eq!(judge(&recorded, &low(&[1.5, 1.6, 1.7, 1.6]), 0.1), Change::Worse);
        assert_eq!(judge(&recorded, &low(&[1.0, 1.0, 1.5, 1.6]), 0.1), Change::Noise);
        assert_eq!(judge(&recorded, &low(&[0.8, 0.9]), 0.1), Change::Better);
        assert_eq!(judge(&recorded, &low(&[1.5, 1.6, 1.7, 1.6]), 0.6), Change::Same);
    }

    #[test]
    fn where_more_is_better_less_is_worse() {
        assert_eq!(judge(&high(&[1.0, 1.1]), &high(&[0.7, 0.8]), 0.1), Change::Worse);
        assert_eq!(judge(&high(&[1.0, 1.1]), &high(&[1.4, 1.5]), 0.1), Change::Better);
        assert_eq!(judge(&high(&[0.7, 1.1]), &high(&[0.6, 0.9]), 0.1), Change::Noise);
    }

    #[test]
    fn the_machines_own_speed_makes_no_difference() {
        let slow =
            Row { rounds: low(&[1.1]).rounds.iter().map(|r| Round::beside(r.ours * 9.0, 450.0)).collect(), ..low(&[]) };
        assert_eq!(judge(&low(&[1.1]), &slow, 0.01), Change::Same);
    }

    #[test]
    fn next_to_nothing_is_as_good_as_nothing() {
        let faults =
            |count| Row::new("faults", "", Unit::Count, Goal::Low(Some(1.0))).rounds(vec![Round::alone(count)]);
        assert_eq!(judge(&faults(0.0), &faults(0.05), 0.1), Change::Same);
        assert_eq!(judge(&faults(0.0), &faults(0.5), 0.1), Change::Worse);
    }

    #[test]
    fn only_figures_of_both_runs_are_compared() {
        let (recorded, now) = (report(low(&[1.0])), report(low(&[2.0])));
        let (text, worse) = compare(&recorded, &now, 0.1).unwrap();
        assert!(worse && text.contains("100.0%  WORSE"), "{text}");
        assert!(!compare(&now, &recorded, 0.1).unwrap().1);
        assert_eq!(compare(&recorded, &report(Row { name: "other".to_owned(), ..low(&[1.0]) }), 0.1), None);
    }
}
