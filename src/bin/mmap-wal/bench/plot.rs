//! Latency percentiles as a picture: SVG, written here, because what it needs of a plotting library is two logarithmic
//! axes, and what it needs besides is colours that follow the reader's light or dark mode, by classes and a style sheet in
//! the file, which such libraries do not write.
//!
//! The axis of percentiles is that of HdrHistogram's plots: each nine more has the same width.

use std::fmt::Write;

use crate::bench::latency::Summary;
use crate::bench::report::Report;
use crate::bench::row::Unit;
use crate::bench::table::value;

/// What is drawn, the class of its line, and whether it is a floor.
const DRAWN: [(&str, &str, bool); 6] = [
    ("append-none-open-100k", "none", false),
    ("append-none-open-100k-floor", "none", true),
    ("append-batch-open-100k", "batch", false),
    ("append-sync-128", "sync", false),
    ("append-sync-128-floor", "sync", true),
    ("append-sync-128-fdatasync", "synced", true),
];

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 528.0;
/// The area of the lines.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 40.0;
const TOP: f64 = 72.0;
const BOTTOM: f64 = 388.0;
/// Where the legend begins, and the height of a line of it.
const LEGEND: f64 = 460.0;
const LEGEND_LINE: f64 = 22.0;

/// Plain rules and no variables, which some that draw SVG do not know; they also leave out what is for dark mode.
const STYLE: &str = "\
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 }
    .faint { fill: #57606a }
    .ground { fill: #ffffff }
    .grid { stroke: #e3e6ea; stroke-width: 1 }
    .line { fill: none; stroke-width: 2; stroke-linejoin: round }
    .floor { stroke-dasharray: 6 4; stroke-width: 1.5 }
    .none { stroke: #1d5fa8 } .batch { stroke: #147a52 } .sync { stroke: #b34a00 } .synced { stroke: #7a3fa0 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .faint { fill: #9aa4af } .ground { fill: #0d1117 } .grid { stroke: #2a3037 }
      .none { stroke: #79b4f5 } .batch { stroke: #63d0a0 } .sync { stroke: #f3a562 } .synced { stroke: #cba1ee }
    }
";

/// Powers of ten from which to which an axis goes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    from: i32,
    to: i32,
    /// Where these are drawn.
    start: f64,
    end: f64,
}

impl Axis {
    /// Whole powers of ten around `values`.
    fn around(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut from, mut to) = (i32::MAX, i32::MIN);
        for power in values.map(f64::log10) {
            from = from.min(power.floor() as i32);
            to = to.max(power.ceil() as i32);
        }
        Self { from, to: to.max(from.saturating_add(1)), start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        self.start + (self.end - self.start) * share
    }

    fn powers(&self) -> impl Iterator<Item = (i32, f64)> {
        (self.from..=self.to).map(|power| (power, 10_f64.powi(power)))
    }
}

/// The picture; `None` if the report has none of the latencies that it shows.
pub(crate) fn plot(report: &Report) -> Option<String> {
    let of = |name: &str| report.latencies.iter().find(|latency| latency.name == name && latency.count > 0);
    let drawn: Vec<_> = DRAWN.iter().filter_map(|(name, class, floor)| Some((of(name)?, *class, *floor))).collect();
    if drawn.is_empty() {
        return None;
    }
    let lines: Vec<Vec<(f64, f64)>> = drawn.iter().map(|(latency, ..)| points(latency)).collect();
    let all = || lines.iter().flatten();
    let x = Axis::around(all().map(|point| point.0), LEFT, RIGHT);
    let y = Axis::around(all().map(|point| point.1), BOTTOM, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"t d\">\n\
         <title id=\"t\">Latency of an append of 128 bytes, by percentile</title>\n\
         <desc id=\"d\">{}</desc>\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
        escaped(&drawn.iter().map(|(latency, ..)| described(latency)).collect::<Vec<_>>().join("; ")),
    );
    text(&mut svg, (LEFT, 28.0), "title", "start", "Latency of an append of 128 bytes, by percentile");
    let how = "None and Batch in an open loop, from when an append was due; Sync one after the other";
    text(&mut svg, (LEFT, 48.0), "faint", "start", how);
    axes(&mut svg, x, y);
    for (line, (_, class, floor)) in lines.iter().zip(&drawn) {
        let points = line.iter().map(|(share, nanos)| format!("{:.1},{:.1}", x.place(*share), y.place(*nanos)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(svg, "<polyline class=\"{}\" points=\"{points}\"/>", classes(class, *floor));
    }
    let mut entries = [0, 0];
    for (latency, class, floor) in &drawn {
        let column = usize::from(*floor);
        legend(&mut svg, column, entries[column], latency, &classes(class, *floor));
        entries[column] += 1;
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// One of how many an operation is, and the nanoseconds that the others do not exceed. The slowest is one of all.
fn points(latency: &Summary) -> Vec<(f64, f64)> {
    let most = latency.count as f64;
    let one_of = |share: f64| if share < 1.0 { (1.0 / (1.0 - share)).min(most) } else { most };
    latency.percentiles.iter().map(|(share, nanos)| (one_of(*share), (*nanos).max(1) as f64)).collect()
}

fn axes(svg: &mut String, x: Axis, y: Axis) {
    for (power, nanos) in y.powers() {
        let at = y.place(nanos);
        let _ = writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\"/>");
        text(svg, (LEFT - 10.0, at + 4.0), "y", "end", &nanos_label(power));
    }
    let half = (0, 2.0, "50%".to_owned());
    let shares = x.powers().map(|(power, one_of)| (power, one_of, percentile_label(power)));
    for (_, one_of, label) in shares.chain([half]) {
        let at = x.place(one_of);
        let _ = writeln!(svg, "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{BOTTOM}\"/>");
        text(svg, (at, BOTTOM + 20.0), "x", "middle", &label);
    }
    text(svg, ((LEFT + RIGHT) / 2.0, BOTTOM + 44.0), "faint", "middle", "percentile of the appends");
    let middle = (TOP + BOTTOM) / 2.0;
    let _ = writeln!(
        svg,
        "<text class=\"faint\" transform=\"translate(18 {middle}) rotate(-90)\" text-anchor=\"middle\">\
         latency, logarithmic</text>"
    );
}

/// An entry of the legend: the log's in the first column, floors in the second.
fn legend(svg: &mut String, column: usize, row: usize, latency: &Summary, classes: &str) {
    let x = LEFT + (RIGHT - LEFT) / 2.0 * column as f64;
    let y = LEGEND + LEGEND_LINE * row as f64;
    let end = x + 34.0;
    let _ = writeln!(svg, "<line class=\"{classes}\" x1=\"{x}\" y1=\"{y}\" x2=\"{end}\" y2=\"{y}\"/>");
    text(svg, (end + 8.0, y + 4.0), "legend", "start", &latency.what);
}

fn classes(class: &str, floor: bool) -> String {
    format!("line {class}{}", if floor { " floor" } else { "" })
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

/// A latency in words, for those who do not see the picture.
fn described(latency: &Summary) -> String {
    let [half, rare] = [0.5, 0.99].map(|share| value(Unit::Nanos, latency.at(share) as f64));
    format!("{}: median {half}, 99th percentile {rare}", latency.what)
}

/// The latency of ten to a power of nanoseconds.
fn nanos_label(power: i32) -> String {
    let (unit, left) = match power {
        ..=2 => ("ns", power),
        3..=5 => ("us", power - 3),
        6..=8 => ("ms", power - 6),
        _ => ("s", power - 9),
    };
    format!("{} {unit}", 10_f64.powi(left))
}

/// The percentile that all but one of ten to a power do not exceed.
fn percentile_label(power: i32) -> String {
    match power {
        ..=0 => "0%".to_owned(),
        1 => "90%".to_owned(),
        2 => "99%".to_owned(),
        _ => format!("99.{}%", "9".repeat(power as usize - 2)),
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::latency::Latencies;

    fn report(names: &[&str]) -> Report {
        let mut latencies = Latencies::new();
        (1..=100_000).for_each(|n| latencies.record(100 + n * n / 1000));
        let summaries = names.iter().map(|name| latencies.summary(name, "an append & <its> kind"));
        Report { latencies: summaries.collect(), ..Report::default() }
    }

    #[test]
    fn each_nine_more_and_each_power_of_ten_has_the_same_width() {
        let axis = Axis::around([1.0, 950.0].into_iter(), 0.0, 300.0);
        assert_eq!((axis.from, axis.to), (0, 3));
        assert_eq!([1.0, 10.0, 100.0, 1000.0].map(|value| axis.place(value).round()), [0.0, 100.0, 200.0, 300.0]);
        let one = Axis::around([10.0].into_iter(), 300.0, 0.0);
        assert_eq!((one.from, one.to, one.place(10.0)), (1, 2, 300.0));
    }

    #[test]
    fn labels_are_what_people_say() {
        assert_eq!([0, 1, 2, 3, 5].map(percentile_label), ["0%", "90%", "99%", "99.9%", "99.999%"]);
        assert_eq!([1, 3, 5, 6, 9].map(nanos_label), ["10 ns", "1 us", "100 us", "1 ms", "1 s"]);
    }

    #[test]
    fn the_slowest_stands_at_one_of_all() {
        let report = report(&["append-sync-128"]);
        let points = points(&report.latencies[0]);
        assert_eq!(points.first().map(|point| point.0), Some(1.0));
        assert_eq!(points.last().map(|point| point.0), Some(100_000.0));
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn every_latency_has_a_line_and_a_place_in_the_legend() {
        let names: Vec<&str> = DRAWN.iter().map(|(name, ..)| *name).collect();
        let svg = plot(&report(&names)).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 6);
        assert_eq!(svg.matches("class=\"legend\"").count(), 6);
        assert_eq!(svg.matches(" floor\"").count(), 2 * 3);
        for part in
            ["prefers-color-scheme: dark", "percentile of the appends", "latency, logarithmic", ">99.99%<", ">1 us<"]
        {
            assert!(svg.contains(part), "{part}");
        }
    }

    #[test]
    fn elements_are_closed_and_words_cannot_break_out() {
        let svg = plot(&report(&["append-sync-128"])).unwrap();
        let (mut open, mut depth) = (Vec::new(), 0);
        for tag in svg.split('<').skip(1) {
            let (inside, _) = tag.split_once('>').unwrap();
            if let Some(name) = inside.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !inside.ends_with('/') {
                open.push(inside.split_whitespace().next().unwrap());
            }
            depth = depth.max(open.len());
        }
        assert!(open.is_empty() && depth >= 2, "{open:?}");
        assert!(svg.contains("an append &amp; &lt;its&gt; kind"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn without_any_of_the_latencies_there_is_no_picture() {
        assert_eq!(plot(&report(&["other"])), None);
    }
}
