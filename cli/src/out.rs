//! What a command says: text for people, or JSON.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use regatta_observe::{Explain, LogsView, Profile, QueryRow, Table, line};
use serde_json::{Value, json};

use crate::Failure;
use crate::command::Form;

/// Where it is written.
pub(crate) struct Out<'a> {
    to: &'a mut dyn Write,
    pub(crate) json: bool,
    /// Nobody reads it any more.
    pub(crate) is_closed: bool,
}

impl<'a> Out<'a> {
    pub(crate) fn new(to: &'a mut dyn Write, json: bool) -> Self {
        Self { to, json, is_closed: false }
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush()) {
            // As when it is piped into `head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => Ok(written?),
        }
    }

    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.text(&format!("{value}\n"))
    }

    pub(crate) fn say(&mut self, what: &(impl Display + serde::Serialize)) -> Result<(), Failure> {
        if self.json {
            let value = serde_json::to_value(what).unwrap_or_default();
            return self.json(&value);
        }
        let text = what.to_string();
        self.text(&format!("{}\n", text.trim_end_matches('\n')))
    }

    pub(crate) fn next(&mut self) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.text("\n") }
    }

    pub(crate) fn rows(
        &mut self,
        rows: &(impl serde::Serialize + ?Sized),
        table: Table,
        none: &str,
    ) -> Result<(), Failure> {
        if self.json {
            return self.json(&serde_json::to_value(rows).unwrap_or_default());
        }
        if table.is_empty() { self.text(&format!("{none}\n")) } else { self.text(&table.to_string()) }
    }

    /// A line or a JSON value each.
    pub(crate) fn logs(&mut self, view: &LogsView) -> Result<(), Failure> {
        let mut text = String::new();
        for line in &view.lines {
            let json = || serde_json::to_string(line).unwrap_or_default();
            text.push_str(&if self.json { json() } else { line.to_string() });
            text.push('\n');
        }
        if !self.json && view.missed > 0 {
            text.push_str(&format!("({} lines were forgotten before they could be shown)\n", view.missed));
        }
        for (worker, why) in view.silent.iter().filter(|_| !self.json) {
            text.push_str(&format!("(worker {worker} does not say: {})\n", line(why)));
        }
        self.text(&text)
    }

    pub(crate) fn findings(&mut self, all: Vec<(QueryRow, Vec<regatta_observe::Finding>)>) -> Result<(), Failure> {
        if self.json {
            let all = all.iter().map(|(row, findings)| json!({ "query": row, "findings": findings }));
            return self.json(&all.collect());
        }
        let mut text = String::new();
        for (row, findings) in all.iter().filter(|(_, findings)| !findings.is_empty()) {
            text.push_str(&format!("{row}\n"));
            for finding in findings {
                text.push_str(&format!("  {finding}\n"));
            }
        }
        match (text.is_empty(), &all[..]) {
            (false, _) => self.text(&text),
            (true, [(row, _)]) => self.text(&format!("{row}\nnothing was found to be wrong with it\n")),
            (true, all) => self.text(&format!("nothing was found to be wrong with the newest {} queries\n", all.len())),
        }
    }

    /// A profile in this form, in full or not, or how the query is run instead; or a file with that.
    pub(crate) fn profile(
        &mut self,
        profile: &Profile,
        (format, full, explain): (Form, bool, bool),
        file: Option<&Path>,
    ) -> Result<(), Failure> {
        let text = form(profile, format, full, explain, self.json);
        match file {
            None => self.text(&text),
            Some(file) => {
                let failed = |error| Failure::Failed(format!("cannot write {}: {error}", file.display()));
                fs::write(file, text).map_err(failed)
            }
        }
    }
}

/// The text of a profile, or of how the query is run.
fn form(profile: &Profile, format: Form, full: bool, explain: bool, json: bool) -> String {
    let plan: &Explain = &profile.plan;
    let format = if json && format == Form::Text { Form::Json } else { format };
    let text = match (format, explain) {
        (Form::Text, false) if full => format!("{profile:#}"),
        (Form::Text, false) => profile.to_string(),
        (Form::Json, false) => profile.to_json(),
        (Form::Mermaid, false) => profile.to_mermaid(),
        (Form::Dot, false) => profile.to_dot(),
        (Form::Svg, false) => profile.to_svg(),
        (Form::Html, _) => profile.to_html(),
        (Form::Text, true) => plan.to_string(),
        (Form::Json, true) => plan.to_json(),
        (Form::Mermaid, true) => plan.to_mermaid(),
        (Form::Dot, true) => plan.to_dot(),
        (Form::Svg, true) => plan.to_svg(),
    };
    format!("{}\n", text.trim_end_matches('\n'))
}
