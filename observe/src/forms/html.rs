//! As one file that a browser opens from the disk: nothing in it runs, and it loads nothing.

use crate::text::{bytes, count, is_hidden, percent, time};
use crate::{Outcome, Profile};

/// A text as the text of a mark-up, whatever is in it.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML has no other control characters.
            c if is_hidden(c) && c != '\n' && c != '\t' => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

const STYLE: &str = "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1b1b;background:#fff}\
pre,td,th{font:13px ui-monospace,Menlo,Consolas,monospace}pre{overflow:auto;background:#f7f7f5;padding:1rem}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:left}\
.n{text-align:right}figure{margin:0;overflow:auto}svg{height:auto}";

impl Profile {
    /// As one HTML file, with its JSON in it.
    pub fn to_html(&self) -> String {
        let title = escape(&self.title());
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        );
        page.push_str("<h2>Findings</h2>\n");
        if self.findings.is_empty() {
            page.push_str("<p>None.</p>\n");
        } else {
            let rows = self.findings.iter().map(|finding| {
                let stage = finding.stage.map(|stage| format!("stage {stage}")).unwrap_or_default();
                vec![finding.id.clone(), stage, finding.says.clone(), finding.advice.clone()]
            });
            page.push_str(&table(&["rule", "where", "what is so", "what to try"], 4, rows));
        }
        page.push_str(&format!("<h2>Stages</h2>\n<figure>{}</figure>\n", self.to_svg()));
        let stages = self.stages.iter().map(|stage| {
            let spent = &stage.spent;
            let all = spent.time();
            vec![
                stage.stage.to_string(),
                self.plan.label(stage.stage),
                stage.tasks.map_or_else(|| "?".to_owned(), |tasks| tasks.to_string()),
                stage.done.to_string(),
                (stage.failed + stage.lost).to_string(),
                stage.again.to_string(),
                count(stage.rows),
                bytes(stage.bytes),
                time(stage.busy),
                time(stage.durations.quantile(0.5).saturating_mul(1000)),
                time(stage.durations.most().saturating_mul(1000)),
                percent(spent.engine, all),
                percent(spent.udf, all),
            ]
        });
        let columns = [
            "stage",
            "what it does",
            "tasks",
            "done",
            "failed or lost",
            "again",
            "rows",
            "bytes",
            "time",
            "p50",
            "longest",
            "for the engine",
            "for UDFs",
        ];
        page.push_str(&table(&columns, 2, stages));
        if !self.pools.is_empty() {
            let pools = self.pools.iter().map(|pool| {
                let busy =
                    pool.busy_share().map_or_else(|| "?".to_owned(), |busy| percent((busy * 1000.0) as u64, 1000));
                vec![
                    pool.udf.clone(),
                    pool.stage.to_string(),
                    pool.most_ready.to_string(),
                    count(pool.calls.call.count()),
                    count(pool.calls.rows),
                    time(pool.calls.call.quantile(0.5).saturating_mul(1000)),
                    time(pool.calls.call.quantile(0.99).saturating_mul(1000)),
                    busy,
                    time(pool.start),
                    time(pool.waited),
                ]
            });
            let columns = [
                "UDF",
                "stage",
                "replicas",
                "calls",
                "rows",
                "call p50",
                "call p99",
                "busy",
                "start",
                "waited for room",
            ];
            page.push_str(&format!("<h2>UDFs</h2>\n{}", table(&columns, 1, pools)));
        }
        let workers = self.workers.iter().map(|worker| {
            vec![
                worker.worker.to_string(),
                worker.lost.clone().map_or_else(String::new, |why| format!("lost: {why}")),
                format!("{}", worker.cpus),
                count(worker.attempts),
                time(worker.busy),
                bytes(worker.sample.peak),
            ]
        });
        let columns = ["worker", "", "CPU", "attempts", "time", "most memory"];
        page.push_str(&format!("<h2>Workers</h2>\n{}", table(&columns, 2, workers)));
        let slow = self.slow().map(|task| {
            let outcome = format!("{:?}", task.outcome).to_lowercase();
            let (stage, number, attempt) = (task.stage.to_string(), task.task.to_string(), task.attempt.to_string());
            vec![
                stage,
                number,
                attempt,
                outcome,
                task.worker.to_string(),
                count(task.rows),
                bytes(task.bytes),
                time(task.ran),
            ]
        });
        let columns = ["stage", "task", "attempt", "end", "worker", "rows", "bytes", "time"];
        page.push_str(&format!("<h2>Slowest and failed attempts</h2>\n{}", table(&columns, 4, slow)));
        if !self.errors.is_empty() {
            page.push_str("<h2>Errors</h2>\n");
            for error in &self.errors {
                page.push_str(&format!("<pre>{} after the submit\n{}</pre>\n", time(error.at), escape(&error.text)));
            }
        }
        page.push_str(&format!("<h2>As text</h2>\n<pre>{}</pre>\n</main>\n", escape(&format!("{self:#}"))));
        // A closing mark in it would end it.
        let is_meant = |c: char| c == '<' || is_hidden(c);
        let coded = |c: char| if is_meant(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() };
        let json: String = self.to_json().chars().map(coded).collect();
        page.push_str(&format!("<script type=\"application/json\" id=\"profile\">{json}</script>\n</body>\n</html>\n"));
        page
    }

    /// What failed, and the slowest of the rest.
    fn slow(&self) -> impl Iterator<Item = &crate::TaskRecord> {
        let mut all: Vec<_> = self.tasks.iter().collect();
        all.sort_by_key(|task| (task.outcome != Outcome::Failed, std::cmp::Reverse(task.ran), task.stage, task.task));
        all.into_iter().take(50)
    }
}

/// A table of texts; those after the first so many columns are figures.
fn table(columns: &[&str], texts: usize, rows: impl Iterator<Item = Vec<String>>) -> String {
    let class = |at: usize| if at < texts { "" } else { " class=\"n\"" };
    let head = columns.iter().enumerate().map(|(at, name)| format!("<th scope=\"col\"{}>{name}</th>", class(at)));
    let mut text = format!("<table>\n<tr>{}</tr>\n", head.collect::<String>());
    for row in rows {
        let cells = row.iter().enumerate().map(|(at, cell)| format!("<td{}>{}</td>", class(at), escape(cell)));
        text.push_str(&format!("<tr>{}</tr>\n", cells.collect::<String>()));
    }
    text.push_str("</table>\n");
    text
}
