//! Profiles and plans as text, JSON, Mermaid, DOT, SVG and HTML.

mod graph;
mod html;
mod json;
mod layout;
mod marks;
mod picture;
mod svg;
mod tree;

pub use json::FormError;
pub use picture::{DrawnArrow, DrawnStage, Picture};

#[cfg(test)]
mod tests;
