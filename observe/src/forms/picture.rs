//! A query's stages as they are drawn: boxes with lines, and arrows with labels, by their places.

use serde::Serialize;

use super::graph::{Graph, Look};
use super::layout::{Place, layout};
use crate::text::columns;
use crate::{Explain, Profile};

/// The stages of a query as a picture, inputs below. Places and sizes are in pixels, from the upper left corner.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Picture {
    /// How wide it is.
    pub width: f64,
    /// How high it is.
    pub height: f64,
    /// The stages.
    pub stages: Vec<DrawnStage>,
    /// What they read of each other.
    pub arrows: Vec<DrawnArrow>,
}

/// A stage of a picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DrawnStage {
    /// Its number.
    pub stage: u32,
    /// Its left edge.
    pub x: f64,
    /// Its upper edge.
    pub y: f64,
    /// How wide it is.
    pub width: f64,
    /// How high it is.
    pub height: f64,
    /// What is to be seen at once: `done`, `running`, `waiting`, or `found` if something is wrong with it.
    pub look: &'static str,
    /// What it says, its title first.
    pub lines: Vec<String>,
}

/// An arrow of a picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DrawnArrow {
    /// The points that it goes through.
    pub points: Vec<(f64, f64)>,
    /// How thick it is, by its part of all bytes.
    pub thick: f64,
    /// What it says, and where.
    pub label: String,
    /// Where that begins.
    pub at: (f64, f64),
}

/// How high a line is, and how wide a letter.
pub(super) const LINE: f64 = 17.0;
const LETTER: f64 = 7.3;
pub(super) const EDGE: f64 = 10.0;
const MARGIN: f64 = 8.0;

impl Explain {
    /// As it is drawn.
    pub fn to_picture(&self) -> Picture {
        picture(Graph::of_plan(self))
    }
}

impl Profile {
    /// As it is drawn.
    pub fn to_picture(&self) -> Picture {
        picture(Graph::of_profile(self))
    }
}

fn picture(graph: Graph) -> Picture {
    let size = |lines: &[String]| {
        let longest = lines.iter().map(|line| columns(line)).max().unwrap_or(0);
        (longest as f64 * LETTER + 2.0 * EDGE, lines.len() as f64 * LINE + 2.0 * EDGE)
    };
    let sizes: Vec<_> = graph.boxes.iter().map(|stage| size(&stage.lines)).collect();
    let at = |stage: u32| graph.boxes.iter().position(|of| of.stage == stage);
    let ends = |from, to| Some((at(from)?, at(to)?)).filter(|(from, to)| from < to);
    let (arrows, ends): (Vec<_>, Vec<_>) =
        graph.arrows.iter().filter_map(|arrow| Some((arrow, ends(arrow.from, arrow.to)?))).unzip();
    let laid = layout(&sizes, &ends);
    let arrows = arrows.iter().zip(&laid.ways).map(|(arrow, way)| {
        let points: Vec<_> = way.iter().map(|(x, y)| (x + MARGIN, y + MARGIN)).collect();
        let at = match points[..] {
            [(x, y), (to_x, to_y), ..] => ((x + to_x) / 2.0 + 6.0, (y + to_y) / 2.0 + 4.0),
            _ => (0.0, 0.0),
        };
        DrawnArrow { points, thick: 1.0 + 4.0 * arrow.share, label: arrow.label.clone(), at }
    });
    let arrows = arrows.collect();
    let stages = graph.boxes.into_iter().zip(&laid.places).map(|(stage, Place { x, y, width, height })| {
        let look = match stage.look {
            Look::Plain => "done",
            Look::Running => "running",
            Look::Waiting => "waiting",
            Look::Found => "found",
        };
        let (x, y, width, height) = (x + MARGIN, y + MARGIN, *width, *height);
        DrawnStage { stage: stage.stage, x, y, width, height, look, lines: stage.lines }
    });
    let stages = stages.collect();
    Picture { width: laid.width + 2.0 * MARGIN, height: laid.height + 2.0 * MARGIN, stages, arrows }
}
