//! As a picture.

use super::graph::{Graph, Look};
use super::html::escape;
use super::layout::{Place, layout};
use crate::text::columns;
use crate::{Explain, Profile};

impl Explain {
    /// As an SVG picture.
    pub fn to_svg(&self) -> String {
        svg(&Graph::of_plan(self))
    }
}

impl Profile {
    /// As an SVG picture.
    pub fn to_svg(&self) -> String {
        svg(&Graph::of_profile(self))
    }
}

const LINE: f64 = 17.0;
const LETTER: f64 = 7.3;
const EDGE: f64 = 10.0;
const MARGIN: f64 = 8.0;

/// Colours that hold on white and on black; what they say is in words, too.
const STYLE: &str = "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1b1b1b}.t{font-weight:bold}.l{fill:#444;font-size:11px}\
rect{fill:#f7f7f5;stroke:#666}.found rect{stroke:#b00020;stroke-width:3}.running rect{stroke:#0050a0;stroke-width:3}\
.waiting rect{stroke-dasharray:4}path{fill:none;stroke:#666}";

fn svg(graph: &Graph) -> String {
    let sizes: Vec<_> = graph
        .boxes
        .iter()
        .map(|stage| {
            let longest = stage.lines.iter().map(|line| columns(line)).max().unwrap_or(0);
            (longest as f64 * LETTER + 2.0 * EDGE, stage.lines.len() as f64 * LINE + 2.0 * EDGE)
        })
        .collect();
    let at = |stage: u32| graph.boxes.iter().position(|of| of.stage == stage);
    let known: Vec<_> = graph
        .arrows
        .iter()
        .filter_map(|arrow| Some((arrow, (at(arrow.from)?, at(arrow.to)?))))
        .filter(|(_, (from, to))| from < to)
        .collect();
    let laid = layout(&sizes, &known.iter().map(|(_, ends)| *ends).collect::<Vec<_>>());
    let (width, height) = (laid.width + 2.0 * MARGIN, laid.height + 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         role=\"img\"><title>The stages of the query, inputs below</title><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" style=\"fill:#fff;stroke:none\"/>\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" style=\"fill:#666\"/></marker></defs>\n"
    );
    for ((arrow, _), way) in known.iter().zip(&laid.ways) {
        let points: Vec<_> = way.iter().map(|(x, y)| format!("{:.0} {:.0}", x + MARGIN, y + MARGIN)).collect();
        let wide = 1.0 + 4.0 * arrow.share;
        text.push_str(&format!(
            "<path d=\"M{}\" stroke-width=\"{wide:.1}\" marker-end=\"url(#tip)\"/>\n",
            points.join("L")
        ));
        if let [(x, y), (to_x, to_y), ..] = way[..] {
            let (x, y) = ((x + to_x) / 2.0 + MARGIN + 6.0, (y + to_y) / 2.0 + MARGIN + 4.0);
            text.push_str(&format!("<text class=\"l\" x=\"{x:.0}\" y=\"{y:.0}\">{}</text>\n", escape(&arrow.label)));
        }
    }
    for (stage, Place { x, y, width, height }) in graph.boxes.iter().zip(&laid.places) {
        let look = match stage.look {
            Look::Plain => "done",
            Look::Running => "running",
            Look::Waiting => "waiting",
            Look::Found => "found",
        };
        let (x, y) = (x + MARGIN, y + MARGIN);
        text.push_str(&format!(
            "<g class=\"{look}\"><rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"4\"/>"
        ));
        for (number, line) in stage.lines.iter().enumerate() {
            let (left, down) = (x + EDGE, y + EDGE + LINE * (number as f64 + 0.75));
            let class = if number == 0 { " class=\"t\"" } else { "" };
            text.push_str(&format!("<text{class} x=\"{left:.0}\" y=\"{down:.0}\">{}</text>", escape(line)));
        }
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}
