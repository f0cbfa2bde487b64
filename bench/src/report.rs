//! What the bench says: rows of tables, figures with their goals, the same as JSON lines.
//!
//! A goal is reported, never enforced: times on a shared machine are no reason to fail.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// Width of a column of numbers.
const NUMBER_WIDTH: usize = 11;
/// Width of the first column, which says what the row is about.
const NAME_WIDTH: usize = 34;

/// Prints everything and remembers the figures.
pub(crate) struct Report {
    json: Option<File>,
    section: &'static str,
    columns: Vec<&'static str>,
    figures: Vec<Figure>,
}

/// One row of a table: a name, and numbers under their column's title.
#[derive(Default)]
pub(crate) struct Row {
    name: String,
    numbers: Vec<(&'static str, f64)>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            numbers: Vec::new(),
        }
    }

    /// Adds a number; its title carries the unit.
    pub(crate) fn number(mut self, title: &'static str, number: f64) -> Self {
        self.numbers.push((title, number));
        self
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// A number that has a goal.
#[derive(Clone, Debug)]
struct Figure {
    name: String,
    value: f64,
    goal: Goal,
    noisy: bool,
}

impl Figure {
    fn verdict(&self) -> &'static str {
        match (self.goal.holds(self.value), self.noisy) {
            (true, _) => "holds",
            (false, false) => "misses",
            (false, true) => "misses (noisy)",
        }
    }

    fn line(&self) -> String {
        let (sign, bound) = match self.goal {
            Goal::AtMost(bound) => ('≤', bound),
            Goal::AtLeast(bound) => ('≥', bound),
        };
        let value = round(self.value);
        format!(
            "{:<64} {value:>9}  goal {sign} {bound:<6} {}",
            self.name,
            self.verdict()
        )
    }
}

impl Report {
    /// Starts a report; every line also goes to `json`.
    pub(crate) fn new(json: Option<&Path>) -> anyhow::Result<Self> {
        let open =
            |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
        Ok(Self {
            json: json.map(open).transpose()?,
            section: "",
            columns: Vec::new(),
            figures: Vec::new(),
        })
    }

    /// Begins a section; `about` says what its numbers are.
    pub(crate) fn section(&mut self, name: &'static str, about: &str) {
        println!("\n== {name}: {about}");
        self.section = name;
        self.columns.clear();
    }

    /// Prints a remark.
    pub(crate) fn note(&mut self, text: &str) {
        println!("   {text}");
    }

    /// Prints a row, and in front of it the titles if they differ from the row before.
    pub(crate) fn row(&mut self, row: &Row) -> anyhow::Result<()> {
        let titles: Vec<_> = row.numbers.iter().map(|(title, _)| *title).collect();
        if titles != self.columns {
            print!("   {:<NAME_WIDTH$}", "");
            titles
                .iter()
                .for_each(|title| print!(" {title:>NUMBER_WIDTH$}"));
            println!();
            self.columns = titles;
        }
        print!("   {:<NAME_WIDTH$}", row.name);
        for (_, number) in &row.numbers {
            print!(" {:>NUMBER_WIDTH$}", round(*number));
        }
        println!();
        let mut object = Map::new();
        object.insert("section".to_owned(), json!(self.section));
        object.insert("row".to_owned(), json!(row.name));
        for (title, number) in &row.numbers {
            object.insert((*title).to_owned(), json!(number));
        }
        self.write_json(&Value::Object(object))
    }

    /// Prints a number with its goal. `noisy` says that the limit it is compared with was itself all
    /// over the place.
    pub(crate) fn figure(
        &mut self,
        name: impl Into<String>,
        value: f64,
        goal: Goal,
        noisy: bool,
    ) -> anyhow::Result<()> {
        let figure = Figure {
            name: name.into(),
            value,
            goal,
            noisy,
        };
        println!(" * {}", figure.line());
        let (kind, bound) = match goal {
            Goal::AtMost(bound) => ("at most", bound),
            Goal::AtLeast(bound) => ("at least", bound),
        };
        let line = json!({
            "section": self.section, "figure": figure.name, "value": value,
            "goal": kind, "bound": bound, "verdict": figure.verdict(),
        });
        self.figures.push(figure);
        self.write_json(&line)
    }

    /// Repeats all figures.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        println!("\n== all figures that have a goal");
        for figure in &self.figures {
            println!(" * {}", figure.line());
        }
        let held = self
            .figures
            .iter()
            .filter(|figure| figure.goal.holds(figure.value));
        println!("   {} of {} goals hold", held.count(), self.figures.len());
        Ok(())
    }

    fn write_json(&mut self, line: &Value) -> anyhow::Result<()> {
        match &mut self.json {
            Some(file) => writeln!(file, "{line}").context("write the JSON file"),
            None => Ok(()),
        }
    }
}

/// Three digits, more where they stand before the point.
fn round(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beside_its_goal_says_so() {
        let figure = |value, noisy| Figure {
            name: "ratio".to_owned(),
            value,
            goal: Goal::AtMost(2.0),
            noisy,
        };
        assert!(figure(2.0, true).line().ends_with("holds"));
        assert!(figure(2.1, false).line().ends_with("misses"));
        assert!(figure(2.1, true).line().ends_with("(noisy)"));
    }
}
