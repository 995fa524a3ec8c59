//! The figures as Prometheus reads them.

use std::fmt::Write;

use super::{BOUNDS, Figure, INSTRUMENTS, Instrument, InstrumentKind, Measured};
use crate::Histogram;

/// All figures as the text format of Prometheus, version 0.0.4.
pub fn prometheus(of: &Measured) -> String {
    let mut text = String::new();
    for instrument in INSTRUMENTS {
        let points = instrument.points(of);
        if points.is_empty() {
            continue;
        }
        let name = name(instrument);
        let kind = match instrument.kind {
            InstrumentKind::Counter => "counter",
            InstrumentKind::Gauge => "gauge",
            InstrumentKind::Histogram => "histogram",
        };
        // Nothing fails that writes into a text.
        let _ = writeln!(text, "# HELP {name} {}", instrument.about);
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for point in points {
            let labels = instrument.attributes.iter().zip(&point.attributes);
            let labels: Vec<_> = labels.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            match &point.figure {
                Figure::Number(figure) => _ = writeln!(text, "{name}{} {figure}", braced(&labels)),
                Figure::Spread(spread) => put_spread(&mut text, &name, &labels, spread),
            }
        }
    }
    text
}

fn put_spread(text: &mut String, name: &str, labels: &[String], spread: &Histogram) {
    let mut bucket = |bound: &str, count: u64| {
        let labels = [labels, &[format!("le=\"{bound}\"")]].concat();
        let _ = writeln!(text, "{name}_bucket{} {count}", braced(&labels));
    };
    for power in BOUNDS {
        bucket(&format!("{}", (1_u64 << power) as f64 / 1e6), spread.at_most(power));
    }
    bucket("+Inf", spread.count());
    let _ = writeln!(text, "{name}_sum{} {}", braced(labels), spread.sum() as f64 / 1e6);
    let _ = writeln!(text, "{name}_count{} {}", braced(labels), spread.count());
}

fn braced(labels: &[String]) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// As Prometheus writes names: the unit comes behind, and `total` behind what only grows.
pub(super) fn name(instrument: &Instrument) -> String {
    let unit = match instrument.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let total = if instrument.kind == InstrumentKind::Counter { "_total" } else { "" };
    format!("{}{unit}{total}", instrument.name.replace('.', "_"))
}
