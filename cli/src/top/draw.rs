//! The screen, drawn. What others have named is text: none of it moves a cursor.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;
use regatta_observe::text::{bytes, clock, columns, count, cut};
use regatta_observe::{ClusterView, QueryRow, QueryState, Table, WorkerRow, line};

use super::screen::{Mode, Page, Screen};

/// From so many columns on there is room for everything.
const WIDE: usize = 110;
/// Looks of a worker that are shown.
const SPARKS: usize = 8;
/// Cells of a bar.
const BAR: usize = 6;

/// Draws it.
pub(crate) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let (width, height) = (usize::from(frame.area().width), usize::from(frame.area().height));
    let mut lines = vec![plain(head(screen)), tabs(screen)];
    let room = height.saturating_sub(3);
    match (&screen.mode, &screen.view) {
        (Mode::Help, _) => lines.extend(HELP.lines().map(|text| plain(text.to_owned()))),
        (_, None) => lines.push(plain("waiting for the head's first answer".to_owned())),
        (_, Some(view)) => match &screen.page {
            Page::Overview => overview(screen, view, width, room, &mut lines),
            Page::Workers => lines.extend(workers(screen, view, width, room)),
            Page::Pools => lines.extend(table(&Table::pools(&view.pools), "no UDF has replicas")),
            Page::Waits => lines.extend(waits(screen, width)),
            Page::Query(_) => lines.extend(query(screen, width)),
        },
    }
    lines.truncate(height.saturating_sub(1));
    lines.resize(height.saturating_sub(1), plain(String::new()));
    lines.push(foot(screen));
    frame.render_widget(Paragraph::new(Text::from(lines)), Rect::new(0, 0, frame.area().width, frame.area().height));
}

const HELP: &str = "
 1          queries and workers
 2          workers
 3          pools of UDF replicas
 4          what waits for what
 up, down   select a query, or scroll (also k and j)
 Enter      look at the query
 c          cancel the query: asks first, and needs an operator's token
 /          only queries with this in their name, number, state or work
 Esc        back
 q          quit

 CPU is what a worker's process was busy with of late, in parts of its CPUs; the
 figure beside it is what is charged to tasks and replicas. TASKS are those that
 run and, after +, those that wait at the worker.";

fn plain(text: String) -> Line<'static> {
    Line::from(text)
}

fn bold(text: String) -> Line<'static> {
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn head(screen: &Screen) -> String {
    let Some(view) = &screen.view else { return format!("regatta  {}", screen.address) };
    let fleet = &view.fleet;
    let busy = fleet.busy.map_or_else(|| format!("{:.1} charged", fleet.cpus.1), |busy| format!("{busy:.1}"));
    let memory = match (fleet.used, fleet.memory.0) {
        (0, _) => String::new(),
        (used, 0) => format!("  {}", bytes(used)),
        (used, all) => format!("  {}/{}", bytes(used), bytes(all)),
    };
    let silent = if fleet.silent > 0 { format!(" ({} silent)", fleet.silent) } else { String::new() };
    let (address, workers, cpus) = (cut(&screen.address, 24), fleet.workers, fleet.cpus.0);
    let queries = count(view.known.0.into());
    format!("regatta  {address}  {workers} workers{silent}  {busy}/{cpus:.0} CPU{memory}  {queries} queries")
}

fn tabs(screen: &Screen) -> Line<'static> {
    let tab = |number: u32, name: &str, page: Page| {
        let is_it = screen.page == page;
        format!("{}{number} {name}{}", if is_it { "[" } else { " " }, if is_it { "]" } else { " " })
    };
    let tabs = [
        tab(1, "overview", Page::Overview),
        tab(2, "workers", Page::Workers),
        tab(3, "pools", Page::Pools),
        tab(4, "waits", Page::Waits),
    ];
    let up = screen.view.as_ref().map(|view| format!("  up {}", clock(view.up))).unwrap_or_default();
    let backlog = screen.view.as_ref().filter(|view| view.backlog > 0.0);
    let backlog = backlog.map(|view| format!("  backlog {:.0} CPU", view.backlog)).unwrap_or_default();
    Line::styled(format!("{} ? help{up}{backlog}", tabs.join(" ")), Style::new().add_modifier(Modifier::DIM))
}

fn foot(screen: &Screen) -> Line<'static> {
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    match (&screen.mode, &screen.word) {
        (Mode::Cancel(query), _) => {
            let short = query.get(query.len().saturating_sub(8)..).unwrap_or(query);
            Line::styled(format!("cancel query {}? y: yes; anything else: no", line(short)), reversed)
        }
        (Mode::Filter, _) => Line::styled(format!("/{}_", line(&screen.filter)), reversed),
        (_, Some(Ok(word))) => plain(line(word)),
        (_, Some(Err(word))) => Line::styled(format!("! {}", line(word)), reversed),
        (_, None) if !screen.filter.is_empty() => plain(format!("only those with {:?}; / changes that", screen.filter)),
        (_, None) => Line::styled("Enter look  c cancel  / filter  q quit", Style::new().add_modifier(Modifier::DIM)),
    }
}

fn overview(screen: &Screen, view: &ClusterView, width: usize, room: usize, lines: &mut Vec<Line<'static>>) {
    let queries: Vec<_> = screen.queries().collect();
    // The workers get what the queries leave, and half of it at least; the last line is the selected query's.
    let room = room.saturating_sub(1);
    let most = (room / 2).max(room.saturating_sub(view.workers.len() + 2)).saturating_sub(1);
    let name = if width >= WIDE { format!(" {:<14}", "NAME") } else { String::new() };
    let heads =
        format!("  {:<8}{name} {:>5}  {:<16} {:>6} {:>7}  WAITS FOR", "QUERY", "STAGE", "TASKS", "ROWS/s", "TIME");
    lines.push(bold(cut_end(&heads, width)));
    if queries.is_empty() {
        lines.push(plain("  none".to_owned()));
    }
    // The selected one is among them.
    let first = (screen.at + 1).saturating_sub(most.max(1));
    for (at, row) in queries.iter().enumerate().skip(first).take(most) {
        let text = cut_end(&query_line(row, width >= WIDE, screen.unicode), width);
        let style = Style::new().add_modifier(if at == screen.at { Modifier::REVERSED } else { Modifier::empty() });
        lines.push(Line::styled(text, style));
    }
    lines.push(plain(String::new()));
    let left = (room + 2).saturating_sub(lines.len());
    lines.extend(workers(screen, view, width, left));
    lines.resize(room + 2, plain(String::new()));
    let selected = queries.get(screen.at).map(|row| {
        let name = row.name.as_deref().map_or_else(|| format!("query {}", row.short()), line);
        format!("{}: {}", cut(&name, 20), row.about())
    });
    lines.push(plain(cut_end(&selected.unwrap_or_default(), width)));
}

fn query_line(row: &QueryRow, wide: bool, unicode: bool) -> String {
    let name = row.name.as_deref().map_or_else(|| "-".to_owned(), line);
    let name = if wide { format!(" {}", padded(&name, 14)) } else { String::new() };
    let runs = row.state == QueryState::Running;
    let tasks = match row.tasks {
        _ if !runs => row.state().to_owned(),
        (done, Some(all)) if all > 0 => {
            format!("{:<9} {}", row.tasks(), bar(f64::from(done) / f64::from(all), unicode))
        }
        _ => row.tasks(),
    };
    let rate = row.rate.filter(|rate| runs && *rate >= 1.0).map_or_else(|| "-".to_owned(), |rate| count(rate as u64));
    let (id, stage, tasks, time, about) = (row.short(), row.stage(), padded(&tasks, 16), row.time(), row.about());
    format!("  {id:<8}{name} {stage:>5}  {tasks} {rate:>6} {time:>7}  {about}")
}

fn workers(screen: &Screen, view: &ClusterView, width: usize, room: usize) -> Vec<Line<'static>> {
    let gpus = view.fleet.gpus.0 > 0.0 || width >= WIDE;
    let gpu = |text: &str| if gpus { format!("{text:>8}  ") } else { String::new() };
    let heads = format!(
        "  {:>6}  {:<SPARKS$} {:>5} {:>8}  {:>15}  {:>6}  {}STATE",
        "WORKER",
        "CPU",
        "",
        "CHARGED",
        "MEMORY",
        "TASKS",
        gpu("GPU")
    );
    let mut lines = vec![bold(cut_end(&heads, width))];
    if view.workers.is_empty() {
        lines.push(plain("  none".to_owned()));
    }
    let all = view.fleet.workers as usize;
    let fit = room.saturating_sub(1);
    let shown = if all > fit { fit.saturating_sub(1) } else { fit };
    for row in view.workers.iter().take(shown) {
        let sparks = screen.busy.get(&row.worker).into_iter().flatten().copied().collect::<Vec<_>>();
        let text = worker_line(row, &sparks, &gpu(&row.gpu()), screen.unicode);
        lines.push(plain(cut_end(&text, width)));
    }
    let left = all.saturating_sub(shown.min(view.workers.len()));
    if left > 0 && shown > 0 {
        lines.push(plain(format!("  and {left} more: `regatta workers` has all of them")));
    }
    lines
}

fn worker_line(row: &WorkerRow, sparks: &[f64], gpu: &str, unicode: bool) -> String {
    let last = &sparks[sparks.len().saturating_sub(SPARKS)..];
    let sparks: String = last.iter().map(|part| spark(*part, unicode)).collect();
    let busy = row.busy.map_or_else(|| "-".to_owned(), |busy| format!("{:.0} %", busy / row.cpus.0.max(0.01) * 100.0));
    let charged = format!("{:.1}/{:.0}", row.cpus.1, row.cpus.0);
    let memory = match (row.used, row.memory.0) {
        (0, _) => "-".to_owned(),
        (used, 0) => bytes(used),
        (used, all) => format!("{}/{}", bytes(used), bytes(all)),
    };
    let (sparks, tasks, state) = (padded(&sparks, SPARKS), row.tasks(), row.state());
    format!("  {:>6}  {sparks} {busy:>5} {charged:>8}  {memory:>15}  {tasks:>6}  {gpu}{state}", row.worker)
}

fn table(table: &Table, none: &str) -> Vec<Line<'static>> {
    if table.is_empty() {
        return vec![plain(format!("  {none}"))];
    }
    table.to_string().lines().map(|text| plain(format!("  {text}"))).collect()
}

fn waits(screen: &Screen, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![bold("  QUERY     WHAT WAITS FOR WHAT".to_owned())];
    for row in screen.queries().filter(|row| row.state == QueryState::Running) {
        let waits = row.waits.iter().map(|wait| cut_end(&format!("  {}  {}", row.short(), line(wait)), width));
        lines.extend(waits.map(plain));
    }
    if lines.len() == 1 {
        lines.push(plain("  nothing waits for anything but its turn".to_owned()));
    }
    lines
}

fn query(screen: &Screen, width: usize) -> Vec<Line<'static>> {
    let Some(view) = &screen.query else { return vec![plain("  waiting for the head's answer".to_owned())] };
    let text = view.to_string();
    text.lines().skip(screen.above).map(|text| plain(cut_end(&line(text), width))).collect()
}

/// A part of a whole, as a bar.
fn bar(part: f64, unicode: bool) -> String {
    let eighths = (part.clamp(0.0, 1.0) * (BAR * 8) as f64) as usize;
    let (full, rest) = (eighths / 8, eighths % 8);
    if !unicode {
        return format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
    }
    let tip = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][rest];
    format!("{}{tip}", "█".repeat(full))
}

fn spark(part: f64, unicode: bool) -> char {
    let of: &[char] = if unicode {
        &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    } else {
        &['_', '.', ':', '-', '=', '+', '*', '#']
    };
    of[((part.clamp(0.0, 1.0) * 8.0) as usize).min(7)]
}

/// A text of so many columns.
fn padded(text: &str, width: usize) -> String {
    let text = cut(text, width);
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(&text))))
}

/// As much of a text as fits.
fn cut_end(text: &str, width: usize) -> String {
    let mut left = width;
    let fits = |c: &char| {
        let takes = columns(c.encode_utf8(&mut [0; 4]));
        let fits = takes <= left;
        left = left.saturating_sub(takes);
        fits
    };
    text.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests;
