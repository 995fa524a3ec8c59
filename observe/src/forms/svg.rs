//! As a picture.

use super::html::escape;
use super::picture::{EDGE, LINE, Picture};
use crate::{Explain, Profile};

impl Explain {
    /// As an SVG picture.
    pub fn to_svg(&self) -> String {
        svg(&self.to_picture())
    }
}

impl Profile {
    /// As an SVG picture.
    pub fn to_svg(&self) -> String {
        svg(&self.to_picture())
    }
}

/// Colours that hold on white and on black; what they say is in words, too.
const STYLE: &str = "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1b1b1b}.t{font-weight:bold}.l{fill:#444;font-size:11px}\
rect{fill:#f7f7f5;stroke:#666}.found rect{stroke:#b00020;stroke-width:3}.running rect{stroke:#0050a0;stroke-width:3}\
.waiting rect{stroke-dasharray:4}path{fill:none;stroke:#666}";

fn svg(picture: &Picture) -> String {
    let Picture { width, height, stages, arrows } = picture;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         role=\"img\"><title>The stages of the query, inputs below</title><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" style=\"fill:#fff;stroke:none\"/>\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" style=\"fill:#666\"/></marker></defs>\n"
    );
    for arrow in arrows {
        let points: Vec<_> = arrow.points.iter().map(|(x, y)| format!("{x:.0} {y:.0}")).collect();
        text.push_str(&format!(
            "<path d=\"M{}\" stroke-width=\"{:.1}\" marker-end=\"url(#tip)\"/>\n",
            points.join("L"),
            arrow.thick
        ));
        if points.len() > 1 {
            let (x, y) = arrow.at;
            text.push_str(&format!("<text class=\"l\" x=\"{x:.0}\" y=\"{y:.0}\">{}</text>\n", escape(&arrow.label)));
        }
    }
    for stage in stages {
        let (x, y) = (stage.x, stage.y);
        text.push_str(&format!(
            "<g class=\"{}\"><rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{:.0}\" height=\"{:.0}\" rx=\"4\"/>",
            stage.look, stage.width, stage.height
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
