//! What was measured of one figure: rounds of the log's own value and the floor's, and what they come to.

use serde_json::{Value, json};

/// One round: both values were taken within it, one right after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Round {
    /// The log's value.
    pub(crate) ours: f64,
    /// The floor's, if the figure has one.
    pub(crate) floor: Option<f64>,
}

impl Round {
    /// Beside a floor.
    pub(crate) fn beside(ours: f64, floor: f64) -> Self {
        Self { ours, floor: Some(floor) }
    }

    /// Without one.
    pub(crate) fn alone(ours: f64) -> Self {
        Self { ours, floor: None }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nanoseconds for an operation.
    Nanos,
    /// Bytes for an operation, or for a byte.
    Bytes,
    /// Bytes a second.
    Speed,
    /// Operations a second.
    Rate,
    /// Things that are counted.
    Count,
}

const UNITS: [(Unit, &str); 5] =
    [(Unit::Nanos, "ns"), (Unit::Bytes, "B"), (Unit::Speed, "B/s"), (Unit::Rate, "/s"), (Unit::Count, "count")];

impl Unit {
    /// Its sign.
    pub(crate) fn as_str(self) -> &'static str {
        UNITS.iter().find(|(unit, _)| *unit == self).map_or("", |(_, text)| text)
    }

    fn from_str(text: &str) -> Option<Self> {
        UNITS.iter().find(|(_, sign)| *sign == text).map(|(unit, _)| *unit)
    }
}

/// Which way is better, and how far one wants to get: for the ratio to the floor, or for the value if there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Less is better.
    Low(Option<f64>),
    /// More is better.
    High(Option<f64>),
}

/// How rounds become one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// By their median.
    Median,
    /// By their sum: for what is rare, so that a round may have none of it. The floor's sum counts as one at least.
    Sum,
}

/// What was measured of one figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its name, which begins with the name of the figure.
    pub(crate) name: String,
    /// What it is, for people.
    pub(crate) what: String,
    /// What the floor is; empty if there is none.
    pub(crate) floor: String,
    pub(crate) unit: Unit,
    pub(crate) goal: Goal,
    pub(crate) merge: Merge,
    pub(crate) rounds: Vec<Round>,
}

impl Row {
    /// A row whose rounds are merged by their median.
    pub(crate) fn new(name: impl Into<String>, what: impl Into<String>, unit: Unit, goal: Goal) -> Self {
        let (name, what, floor) = (name.into(), what.into(), String::new());
        Self { name, what, floor, unit, goal, merge: Merge::Median, rounds: Vec::new() }
    }

    /// Beside this floor.
    pub(crate) fn floor(mut self, floor: impl Into<String>) -> Self {
        self.floor = floor.into();
        self
    }

    /// Merged by their sum.
    pub(crate) fn summed(mut self) -> Self {
        self.merge = Merge::Sum;
        self
    }

    /// With these rounds.
    pub(crate) fn rounds(mut self, rounds: Vec<Round>) -> Self {
        self.rounds = rounds;
        self
    }

    /// The log's value.
    pub(crate) fn ours_merged(&self) -> f64 {
        self.merged(self.rounds.iter().map(|round| round.ours))
    }

    /// The floor's value, if there is one.
    pub(crate) fn floor_merged(&self) -> Option<f64> {
        let floors: Vec<f64> = self.rounds.iter().filter_map(|round| round.floor).collect();
        (!floors.is_empty()).then(|| self.merged(floors.into_iter()))
    }

    /// The ratio of the log's value to the floor's: the median of the rounds' ratios, since a round's two values were
    /// taken under the same conditions, and those of two rounds were not.
    pub(crate) fn ratio(&self) -> Option<f64> {
        match self.merge {
            Merge::Median => self.floor_merged().map(|_| median(&mut self.judged_rounds())),
            Merge::Sum => self.floor_merged().map(|floor| self.ours_merged() / floor.max(1.0)),
        }
    }

    /// What is held against the goal: the ratio, or the value if there is no floor.
    pub(crate) fn judged(&self) -> f64 {
        self.ratio().unwrap_or_else(|| self.ours_merged())
    }

    /// The same for each round.
    pub(crate) fn judged_rounds(&self) -> Vec<f64> {
        let least = if self.merge == Merge::Sum { 1.0 } else { f64::MIN_POSITIVE };
        self.rounds.iter().map(|round| round.floor.map_or(round.ours, |floor| round.ours / floor.max(least))).collect()
    }

    /// Whether the goal is met; `None` if there is none.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::Low(most) => most.map(|most| self.judged() <= most),
            Goal::High(least) => least.map(|least| self.judged() >= least),
        }
    }

    fn merged(&self, values: impl Iterator<Item = f64>) -> f64 {
        match self.merge {
            Merge::Median => median(&mut values.collect::<Vec<f64>>()),
            Merge::Sum => values.sum(),
        }
    }

    /// As JSON, with what the rounds come to.
    pub(crate) fn to_json(&self) -> Value {
        let (better, target) = match self.goal {
            Goal::Low(target) => ("lower", target),
            Goal::High(target) => ("higher", target),
        };
        let merge = if self.merge == Merge::Sum { "sum" } else { "median" };
        let rounds = self.rounds.iter().map(|round| json!({"ours": round.ours, "floor": round.floor}));
        json!({
            "name": self.name,
            "what": self.what,
            "floor_is": self.floor,
            "unit": self.unit.as_str(),
            "better": better,
            "target": target,
            "merge": merge,
            "ours": self.ours_merged(),
            "floor": self.floor_merged(),
            "ratio": self.ratio(),
            "met": self.is_met(),
            "rounds": rounds.collect::<Vec<Value>>(),
        })
    }

    /// From JSON; `None` if it is not what [`Row::to_json`] makes.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        let target = value.get("target")?.as_f64();
        let round = |round: &Value| Some(Round { ours: round.get("ours")?.as_f64()?, floor: round["floor"].as_f64() });
        Some(Self {
            name: text("name")?,
            what: text("what")?,
            floor: text("floor_is")?,
            unit: Unit::from_str(&text("unit")?)?,
            goal: match text("better")?.as_str() {
                "lower" => Goal::Low(target),
                "higher" => Goal::High(target),
                _ => return None,
            },
            merge: match text("merge")?.as_str() {
                "median" => Merge::Median,
                "sum" => Merge::Sum,
                _ => return None,
            },
            rounds: value.get("rounds")?.as_array()?.iter().map(round).collect::<Option<_>>()?,
        })
    }
}

/// The value in the middle, or between the two in the middle; 0 if there is none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value at a share of 0.0 to 1.0 of the way from the smallest to the largest, between two if need be.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let position = share * last as f64;
    let (below, above) = (values[position.floor() as usize], values[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rounds: &[(f64, f64)], goal: Goal) -> Row {
        let rounds = rounds.iter().map(|(ours, floor)| Round::beside(*ours, *floor)).collect();
        Row::new("a", "an append", Unit::Nanos, goal).floor("a copy").rounds(rounds)
    }

    #[test]
    fn the_median_is_in_the_middle_or_between_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(quantile(&mut [5.0, 1.0, 2.0, 3.0, 4.0], 0.25), 2.0);
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_the_medians() {
        // A machine that became three times slower in the middle of it all.
        let row = row(&[(11.0, 10.0), (36.0, 30.0), (13.0, 10.0)], Goal::Low(Some(1.2)));
        assert_eq!((row.ours_merged(), row.floor_merged()), (13.0, Some(10.0)));
        assert_eq!(row.ratio(), Some(1.2));
        assert_eq!(row.is_met(), Some(true));
    }

    #[test]
    fn what_is_rare_is_summed_and_held_against_one_at_least() {
        let summed = |rounds: &[(f64, f64)]| row(rounds, Goal::Low(Some(2.0))).summed();
        assert_eq!(summed(&[(1.0, 0.0), (3.0, 2.0)]).ratio(), Some(2.0));
        assert_eq!(summed(&[(1.0, 0.0), (0.0, 0.0)]).ratio(), Some(1.0));
        assert_eq!(summed(&[(5.0, 1.0), (0.0, 1.0)]).is_met(), Some(false));
        assert_eq!(summed(&[(5.0, 0.0)]).judged_rounds(), [5.0]);
    }

    #[test]
    fn without_a_floor_the_value_itself_is_judged() {
        let row = Row::new("f", "faults", Unit::Count, Goal::Low(Some(1.0))).rounds(vec![Round::alone(0.5)]);
        assert_eq!((row.ratio(), row.judged(), row.is_met()), (None, 0.5, Some(true)));
    }

    #[test]
    fn more_is_better_where_the_goal_says_so() {
        assert_eq!(row(&[(13.0, 10.0)], Goal::High(Some(1.3))).is_met(), Some(true));
        assert_eq!(row(&[(12.0, 10.0)], Goal::High(Some(1.3))).is_met(), Some(false));
        assert_eq!(row(&[(12.0, 10.0)], Goal::High(None)).is_met(), None);
    }

    #[test]
    fn rows_survive_json() {
        let rows = [
            row(&[(13.0, 10.0), (12.0, 11.0)], Goal::High(Some(1.3))),
            row(&[(1.0, 0.0)], Goal::Low(None)).summed(),
            Row::new("f", "faults", Unit::Count, Goal::Low(Some(1.0))).rounds(vec![Round::alone(0.5)]),
        ];
        for row in rows {
            assert_eq!(Row::from_json(&row.to_json()), Some(row));
        }
        assert_eq!(Row::from_json(&json!({"name": "f"})), None);
    }
}
