//! Steps over time, as an SVG written by hand.

use std::fmt::Write;

/// What was there at one moment.
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) workers: usize,
    pub(crate) replicas: usize,
    /// CPUs that what waited for room would take.
    pub(crate) backlog: f64,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 40.0;
/// From the top of one panel to the top of the next.
const PANEL: f64 = 200.0;

/// Workers and ready replicas above, backlog below.
pub(crate) fn draw(title: &str, samples: &[Sample]) -> String {
    let end = samples.last().map_or(1.0, |last| last.seconds.ceil().max(1.0));
    let backlog = samples.iter().map(|sample| sample.backlog).fold(1.0, f64::max).ceil();
    let (width, height) = (LEFT + WIDTH + 30.0, TOP + PANEL + HEIGHT + 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    panel(&mut svg, TOP, end, 5.0, &[("workers", "#1f77b4"), ("ready replicas", "#d62728")]);
    steps(&mut svg, TOP, end, 5.0, "#1f77b4", samples.iter().map(|sample| (sample.seconds, sample.workers as f64)));
    steps(&mut svg, TOP, end, 5.0, "#d62728", samples.iter().map(|sample| (sample.seconds, sample.replicas as f64)));
    panel(&mut svg, TOP + PANEL, end, backlog, &[("backlog (CPU)", "#2ca02c")]);
    steps(
        &mut svg,
        TOP + PANEL,
        end,
        backlog,
        "#2ca02c",
        samples.iter().map(|sample| (sample.seconds, sample.backlog)),
    );
    svg + "</svg>\n"
}

/// Axes from zero to `end` seconds and to `most`, and what each colour means.
fn panel(svg: &mut String, top: f64, end: f64, most: f64, lines: &[(&str, &str)]) {
    let bottom = top + HEIGHT;
    let grey = "stroke=\"#999\" fill=\"none\"";
    let _ = writeln!(svg, "<path d=\"M{LEFT} {top}V{bottom}H{}\" {grey}/>", LEFT + WIDTH);
    let step = (end / 10.0).ceil();
    for tick in 0..=(end / step) as u32 {
        let seconds = f64::from(tick) * step;
        let x = LEFT + WIDTH * seconds / end;
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{seconds} s</text>", bottom + 16.0);
    }
    for tick in 0..=5u32 {
        let value = most * f64::from(tick) / 5.0;
        let (x, y) = (LEFT - 6.0, bottom - HEIGHT * value / most);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>", y + 4.0);
    }
    for (line, (name, colour)) in lines.iter().enumerate() {
        let x = LEFT + WIDTH - 110.0 * (line as f64 + 1.0);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\" fill=\"{colour}\">{name}</text>", top - 6.0);
    }
}

/// One line that keeps each value until the next.
fn steps(svg: &mut String, top: f64, end: f64, most: f64, colour: &str, values: impl Iterator<Item = (f64, f64)>) {
    let mut path = String::new();
    for (seconds, value) in values {
        let (x, y) = (LEFT + WIDTH * seconds / end, top + HEIGHT * (1.0 - value / most));
        let _ = if path.is_empty() { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
    }
    let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"none\"/>");
}
