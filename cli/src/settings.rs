//! Settings: defaults < file < environment < `--set` < flags, merged as TOML and read once.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use toml::{Table, Value};

/// Environment variables `SARIT_SECTION__KEY=value` are settings.
const PREFIX: &str = "SARIT_";

/// Everything that can be set, by section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The controller.
    pub(crate) controller: sarit_controller::Config,
    /// The segment store.
    pub(crate) segmentstore: sarit_segmentstore::Config,
}

/// Units that sizes may be written in: `"64MiB"`.
const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// Where settings come from, strongest last.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    merged: Table,
}

impl Sources {
    /// Adds a file.
    pub(crate) fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        #[allow(
            clippy::disallowed_methods,
            reason = "start-up, before any world exists"
        )]
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the settings file {}", path.display()))?;
        let table: Table = text
            .parse()
            .with_context(|| format!("read the settings file {}", path.display()))?;
        merge(&mut self.merged, table);
        Ok(())
    }

    /// Adds the variables that are settings: `SARIT_SEGMENTSTORE__MEMORY__BUDGET=1GiB`. What is not UTF-8
    /// is none.
    pub(crate) fn environment(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> anyhow::Result<()> {
        for (name, value) in variables {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
                continue;
            };
            let Some(key) = name.strip_prefix(PREFIX) else {
                continue;
            };
            // `SARIT_LOG`, `SARIT_CONTROLLER` and others' variables name no section.
            if !key.contains("__") {
                continue;
            }
            let path = key.to_lowercase().replace("__", ".");
            self.put(&path, scalar(value))
                .with_context(|| format!("the variable {name}"))?;
        }
        Ok(())
    }

    /// Adds `key=value` as given with `--set`.
    pub(crate) fn assignment(&mut self, assignment: &str) -> anyhow::Result<()> {
        let Some((path, value)) = assignment.split_once('=') else {
            bail!(
                "--set {assignment}: write it as key=value, for example segmentstore.memory.budget=1GiB"
            );
        };
        self.put(path.trim(), scalar(value.trim()))
            .with_context(|| format!("--set {assignment}"))
    }

    /// Sets one value.
    pub(crate) fn put(&mut self, path: &str, value: Value) -> anyhow::Result<()> {
        let (sections, key) = match path.rsplit_once('.') {
            Some((sections, key)) => (sections, key),
            None => bail!("`{path}` names no section; settings look like segmentstore.containers"),
        };
        let mut table = &mut self.merged;
        for section in sections.split('.') {
            let next = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            table = next
                .as_table_mut()
                .with_context(|| format!("`{section}` is no section"))?;
        }
        table.insert(key.to_owned(), value);
        Ok(())
    }

    /// Reads what was merged.
    pub(crate) fn settings(mut self) -> anyhow::Result<Settings> {
        self.merged
            .iter_mut()
            .for_each(|(_, value)| read_sizes(value));
        Settings::deserialize(self.merged).context("read the settings")
    }
}

/// Turns texts like `64MiB` into numbers of bytes, at any depth.
fn read_sizes(value: &mut Value) {
    match value {
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| read_sizes(value)),
        Value::String(text) => {
            let size = UNITS.iter().find_map(|(unit, shift)| {
                let number: i64 = text.strip_suffix(unit)?.trim().parse().ok()?;
                number.checked_mul(1 << shift)
            });
            if let Some(size) = size {
                *value = Value::Integer(size);
            }
        }
        _ => {}
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A value as TOML would read it, else a string.
fn scalar(text: &str) -> Value {
    let document: Result<Table, _> = format!("value = {text}").parse();
    let parsed = document.ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn later_sources_win() {
        let mut sources = Sources::default();
        let variable = |name: &str, value: &str| (name.into(), value.into());
        let not_text = OsString::from_vec(b"\xff".to_vec());
        let variables = [
            variable("SARIT_A__B", "1"),
            variable("SARIT_A__C", "x y"),
            variable("PATH", "/"),
            variable("SARIT_LOG", "debug"),
            (not_text.clone(), not_text.clone()),
            ("SARIT_A__B".into(), not_text),
        ];
        sources.environment(variables.into_iter()).unwrap();
        sources.assignment("a.b = 2").unwrap();
        let a = sources.merged["a"].as_table().unwrap();
        assert_eq!(a["b"].as_integer(), Some(2));
        assert_eq!(a["c"].as_str(), Some("x y"));
    }

    #[test]
    fn a_setting_nobody_knows_is_refused_by_name() {
        let mut sources = Sources::default();
        sources.assignment("segmentstore.no_such_thing=1").unwrap();
        let error = format!("{:#}", sources.settings().unwrap_err());
        assert!(error.contains("no_such_thing"), "{error}");
    }

    #[test]
    fn sizes_may_have_units() {
        let mut sources = Sources::default();
        sources
            .assignment("segmentstore.memory.budget=1GiB")
            .unwrap();
        assert_eq!(
            sources.settings().unwrap().segmentstore.memory.budget,
            1 << 30
        );
    }

    #[test]
    fn an_assignment_without_a_section_is_refused() {
        assert!(Sources::default().assignment("budget=1").is_err());
        assert!(Sources::default().assignment("budget").is_err());
    }
}
