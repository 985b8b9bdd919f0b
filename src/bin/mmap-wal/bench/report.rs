//! A run as a whole, and as JSON.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::bench::ground::Scale;
use crate::bench::latency::Summary;
use crate::bench::machine::Facts;
use crate::bench::row::Row;
use crate::failure::{FAILED, Failure, UNREADABLE};

/// The version of the JSON. Keys may be added within it.
const SCHEMA: u64 = 1;

/// What one run has measured, and on what.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) machine: Facts,
    /// How much was done, in a word.
    pub(crate) scale: String,
    pub(crate) rounds: u64,
    pub(crate) seconds: u64,
    pub(crate) rows: Vec<Row>,
    pub(crate) latencies: Vec<Summary>,
}

impl Report {
    /// Without any figure.
    pub(crate) fn new(machine: Facts, scale: Scale, rounds: usize) -> Self {
        Self { machine, scale: scale.as_str().to_owned(), rounds: rounds as u64, ..Self::default() }
    }

    /// Notes how long it took.
    pub(crate) fn took(&mut self, time: Duration) {
        self.seconds = time.as_secs();
    }

    /// The row of that name.
    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn to_json(&self) -> Value {
        let machine: Map<String, Value> =
            self.machine.iter().map(|(name, fact)| (name.clone(), Value::from(fact.as_str()))).collect();
        json!({
            "schema": SCHEMA,
            "machine": machine,
            "scale": self.scale,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "figures": self.rows.iter().map(Row::to_json).collect::<Vec<Value>>(),
            "latencies": self.latencies.iter().map(Summary::to_json).collect::<Vec<Value>>(),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let facts = value.get("machine")?.as_object()?.iter();
        let fact = |(name, fact): (&String, &Value)| Some((name.clone(), fact.as_str()?.to_owned()));
        let list = |key: &str| value.get(key)?.as_array();
        Some(Self {
            machine: facts.map(fact).collect::<Option<_>>()?,
            scale: value.get("scale")?.as_str()?.to_owned(),
            rounds: value.get("rounds")?.as_u64()?,
            seconds: value.get("seconds")?.as_u64()?,
            rows: list("figures")?.iter().map(Row::from_json).collect::<Option<_>>()?,
            latencies: list("latencies")?.iter().map(Summary::from_json).collect::<Option<_>>()?,
        })
    }

    /// Writes it to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        write_file(path, &format!("{:#}\n", self.to_json()))
    }

    /// Reads one that was written.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(UNREADABLE, format!("cannot read {shown}: {e}; check the path")))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| {
            Failure::new(UNREADABLE, format!("{shown} is not JSON: {e}; give a file that `bench --json` wrote"))
        })?;
        let refused = || {
            let sentence = format!("{shown} holds no figures of schema {SCHEMA}; write it again with `bench --json`");
            Failure::new(UNREADABLE, sentence)
        };
        if value.get("schema").and_then(Value::as_u64) != Some(SCHEMA) {
            return Err(refused());
        }
        Self::from_json(&value).ok_or_else(refused)
    }
}

/// Writes a file for a person.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let refused = |e| Failure::new(FAILED, format!("cannot write {}: {e}; check the path", path.display()));
    std::fs::write(path, text).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::latency::Latencies;
    use crate::bench::row::{Goal, Round, Unit};

    fn report() -> Report {
        let mut latencies = Latencies::new();
        (1..1000).for_each(|n| latencies.record(n * n));
        let row = Row::new("a", "an append", Unit::Nanos, Goal::Low(Some(1.2))).rounds(vec![Round::beside(3.0, 2.0)]);
        let mut report = Report::new(vec![("kernel".to_owned(), "some".to_owned())], Scale::Quick, 9);
        report.rows.push(row);
        report.latencies.push(latencies.summary("none", "append, None"));
        report.took(Duration::from_secs(7));
        report
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("figures.json");
        report().write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report());
    }

    #[test]
    fn what_is_not_a_report_of_this_schema_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("figures.json");
        assert!(Report::read(&path).is_err());
        let later = report().to_json().to_string().replace("\"schema\":1", "\"schema\":2");
        for text in ["", "{}", "[1]", "{\"schema\": 1}", &later] {
            std::fs::write(&path, text).unwrap();
            assert!(Report::read(&path).is_err(), "{text}");
        }
    }
}
