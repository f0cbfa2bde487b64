//! Rate, segments and epochs over time, one panel per scenario, as SVG: lines and words, nothing else.

use std::fmt::Write as _;

use sarit_tests::autoscale::{Outcome, SECONDS, Scenario};

const WIDTH: f64 = 860.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 26.0;
/// Seconds that one point of the rate is the mean of.
const MEAN: usize = 10;

/// Draws all panels, one below the other.
pub(crate) fn svg(drawn: &[(&Scenario, Outcome)]) -> String {
    let height = PANEL * drawn.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (n, (scenario, outcome)) in drawn.iter().enumerate() {
        panel(&mut out, PANEL * n as f64, scenario, outcome);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, y: f64, scenario: &Scenario, outcome: &Outcome) {
    let target = f64::from(scenario.target);
    let rates: Vec<f64> = outcome
        .samples
        .chunks(MEAN)
        .map(|some| {
            let events: u64 = some.iter().map(|sample| sample.events).sum();
            events as f64 / some.len() as f64 / target
        })
        .collect();
    let segments: Vec<f64> = outcome
        .samples
        .iter()
        .map(|sample| sample.segments as f64)
        .collect();
    let epochs: Vec<f64> = outcome
        .samples
        .iter()
        .map(|sample| sample.epochs as f64)
        .collect();
    let highest = |values: &[f64]| values.iter().copied().fold(1.0, f64::max);
    let top = highest(&rates).max(highest(&segments)).ceil();
    let inside = PANEL - TOP - BOTTOM;
    let base = y + PANEL - BOTTOM;
    let last = outcome.scalings.len();
    let _infallible = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\"><tspan fill=\"#888\">rate / target</tspan>  \
         <tspan fill=\"#1565c0\">segments</tspan>  <tspan fill=\"#c62828\">changes: {last}</tspan></text>",
        y + TOP - 10.0,
        scenario.name,
        WIDTH - RIGHT,
        y + TOP - 10.0,
    );
    for step in 0..=2 {
        let value = top * f64::from(step) / 2.0;
        let at = base - inside * f64::from(step) / 2.0;
        let _infallible = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
        );
    }
    for minute in (0..=SECONDS / 60).step_by(5) {
        let x = LEFT + (WIDTH - LEFT - RIGHT) * f64::from(minute * 60) / f64::from(SECONDS);
        let _infallible = writeln!(
            out,
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{minute} min</text>",
            base + 14.0
        );
    }
    let area = Area { base, inside, top };
    area.line(out, &rates, "#888", MEAN, Shape::Slanted);
    area.line(out, &segments, "#1565c0", 1, Shape::Stepped);
    let area = Area {
        top: highest(&epochs).max(top),
        ..area
    };
    area.line(out, &epochs, "#c62828", 1, Shape::Stepped);
}

#[derive(Clone, Copy)]
struct Area {
    base: f64,
    inside: f64,
    top: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Slanted,
    Stepped,
}

impl Area {
    fn line(self, out: &mut String, values: &[f64], colour: &str, seconds: usize, shape: Shape) {
        let x =
            |n: usize| LEFT + (WIDTH - LEFT - RIGHT) * (n * seconds) as f64 / f64::from(SECONDS);
        let y = |value: f64| self.base - self.inside * value / self.top;
        let _infallible = write!(out, "<polyline fill=\"none\" stroke=\"{colour}\" points=\"");
        let mut before = None;
        for (n, value) in values.iter().enumerate() {
            // A level line needs its corners only.
            if shape == Shape::Stepped && before == Some(*value) && n + 1 < values.len() {
                continue;
            }
            if let (Shape::Stepped, Some(before)) = (shape, before) {
                let _infallible = write!(out, "{:.1},{:.1} ", x(n), y(before));
            }
            let _infallible = write!(out, "{:.1},{:.1} ", x(n), y(*value));
            before = Some(*value);
        }
        let _infallible = writeln!(out, "\"/>");
    }
}
