//! How every benchmark is called and reports: `cargo bench --bench NAME -- [--quick] [--json FILE]`.

use std::path::{Path, PathBuf};

use serde_json::json;

/// One figure that is taken of every system.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// Which way a figure improves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// The figures of one benchmark.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    baseline: &'static str,
    json: Option<PathBuf>,
    repetitions: usize,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    case: &'static Case,
    system: &'static str,
    /// One for each repetition, so that ratios compare what ran side by side.
    samples: Vec<f64>,
    why: Option<String>,
}

impl Report {
    /// Reads the command line. Ratios are to the system named `baseline`.
    pub(crate) fn from_args(bench: &'static str, baseline: &'static str) -> Self {
        let mut report = Self { bench, baseline, json: None, repetitions: 3, rows: Vec::new() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => report.repetitions = 1,
                "--json" => report.json = Some(args.next().expect("--json needs a file").into()),
                "--bench" => (), // from cargo
                other => panic!("unknown argument {other}; known are --quick and --json FILE"),
            }
        }
        report
    }

    /// How often everything is measured, all systems in turn.
    pub(crate) fn repetitions(&self) -> usize {
        self.repetitions
    }

    /// Adds the figure of one repetition, or why there is none, and tells it: a run that is cut short has not been for nothing.
    pub(crate) fn add(&mut self, case: &'static Case, system: &'static str, value: Result<f64, String>) {
        let known = self.rows.iter().position(|row| std::ptr::eq(row.case, case) && row.system == system);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row { case, system, samples: Vec::new(), why: None });
            self.rows.len() - 1
        });
        match value {
            Ok(value) => {
                eprintln!("{}, {system}: {} {}", case.name, figure(value), case.unit);
                self.rows[at].samples.push(value);
            }
            Err(why) => self.rows[at].why = Some(why),
        }
    }

    /// Prints the table and writes the file.
    pub(crate) fn finish(mut self) {
        // By case, in the order in which the cases came; within one, systems keep theirs.
        let cases: Vec<_> = self.rows.iter().map(|row| row.case.name).collect();
        self.rows.sort_by_key(|row| cases.iter().position(|case| *case == row.case.name));
        println!("\n| {} | system | median | least - most | ratio to {} |", self.bench, self.baseline);
        println!("|---|---|---:|---:|---:|");
        for row in &self.rows {
            println!("{}", self.line(row));
        }
        if let Some(file) = &self.json {
            write(file, &self.rows.iter().map(|row| self.value(row)).collect::<Vec<_>>());
        }
    }

    fn line(&self, row: &Row) -> String {
        let Case { name, unit, .. } = row.case;
        let system = row.system;
        let (Some(median), Some(least), Some(most)) = (row.at(0.5), row.at(0.0), row.at(1.0)) else {
            let why = row.why.as_deref().unwrap_or("not measured");
            return format!("| {name} | {system} | - | {why} | |");
        };
        let ratio = self.ratio(row).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        format!("| {name} | {system} | {} {unit} | {} - {} | {ratio} |", figure(median), figure(least), figure(most))
    }

    /// The median of the ratios of each repetition.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let base = self.rows.iter().find(|base| base.system == self.baseline && base.case.name == row.case.name)?;
        quantile(row.samples.iter().zip(&base.samples).map(|(ours, base)| ours / base).collect(), 0.5)
    }

    fn value(&self, row: &Row) -> serde_json::Value {
        let better = match row.case.better {
            Better::Lower => "lower",
            Better::Higher => "higher",
        };
        let mut value = json!({
            "bench": self.bench, "case": row.case.name, "system": row.system, "value": row.at(0.5),
            "unit": row.case.unit, "better": better,
        });
        if row.samples.is_empty() {
            value["why"] = row.why.clone().into();
        }
        value
    }
}

impl Row {
    fn at(&self, share: f64) -> Option<f64> {
        quantile(self.samples.clone(), share)
    }
}

/// The value below which this share of them lies.
pub(crate) fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(values[(last as f64 * share).round() as usize])
}

/// Three digits, or a whole number in groups of three.
fn figure(value: f64) -> String {
    match value {
        1000.0.. => {
            let digits = (value.round() as u64).to_string();
            let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
            groups.join(" ")
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn write(file: &Path, values: &[serde_json::Value]) {
    let text = serde_json::to_string_pretty(values).expect("figures are JSON");
    std::fs::write(file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}
