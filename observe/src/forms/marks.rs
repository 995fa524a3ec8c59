//! As the marks of other programs: Mermaid and Graphviz.

use super::graph::{Graph, Look};
use crate::{Explain, Profile};

impl Explain {
    /// As a Mermaid flow chart.
    pub fn to_mermaid(&self) -> String {
        mermaid(&Graph::of_plan(self))
    }

    /// In Graphviz' language.
    pub fn to_dot(&self) -> String {
        dot(&Graph::of_plan(self))
    }
}

impl Profile {
    /// As a Mermaid flow chart.
    pub fn to_mermaid(&self) -> String {
        mermaid(&Graph::of_profile(self))
    }

    /// In Graphviz' language.
    pub fn to_dot(&self) -> String {
        dot(&Graph::of_profile(self))
    }
}

fn class(look: Look) -> &'static str {
    match look {
        Look::Plain => "done",
        Look::Running => "running",
        Look::Waiting => "waiting",
        Look::Found => "found",
    }
}

fn mermaid(graph: &Graph) -> String {
    let mut text = "flowchart BT\n".to_owned();
    // Names of UDFs and files are of people: nothing in them is a mark.
    let quoted = |line: &String| {
        let marks = |c: char| "\"<>#&;`\\{}|".contains(c);
        line.chars().map(|c| if marks(c) { format!("#{};", c as u32) } else { c.to_string() }).collect::<String>()
    };
    for stage in &graph.boxes {
        let lines: Vec<_> = stage.lines.iter().map(quoted).collect();
        text.push_str(&format!("    s{}[\"{}\"]:::{}\n", stage.stage, lines.join("<br/>"), class(stage.look)));
    }
    for arrow in &graph.arrows {
        text.push_str(&format!("    s{} -- \"{}\" --> s{}\n", arrow.from, quoted(&arrow.label), arrow.to));
    }
    text.push_str(
        "    classDef found stroke:#b00020,stroke-width:3px\n    classDef running stroke:#0050a0,stroke-width:3px\n",
    );
    text.push_str("    classDef waiting stroke-dasharray:4\n");
    text
}

fn dot(graph: &Graph) -> String {
    let mut text = "digraph query {\n    rankdir=BT\n    node [shape=box, fontname=\"sans-serif\"]\n".to_owned();
    let quoted = |line: &str| line.replace('\\', "\\\\").replace('"', "\\\"");
    for stage in &graph.boxes {
        let lines: String = stage.lines.iter().map(|line| format!("{}\\l", quoted(line))).collect();
        let look = match stage.look {
            Look::Plain => "",
            Look::Running => ", color=\"#0050a0\", penwidth=3",
            Look::Waiting => ", style=dashed",
            Look::Found => ", color=\"#b00020\", penwidth=3",
        };
        text.push_str(&format!("    s{} [label=\"{lines}\"{look}]\n", stage.stage));
    }
    for arrow in &graph.arrows {
        let (label, width) = (quoted(&arrow.label), 1.0 + 4.0 * arrow.share);
        text.push_str(&format!("    s{} -> s{} [label=\"{label}\", penwidth={width:.1}]\n", arrow.from, arrow.to));
    }
    text.push_str("}\n");
    text
}
