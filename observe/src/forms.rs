//! Profiles and plans as text, JSON, Mermaid, DOT, SVG and HTML.

mod graph;
mod html;
mod json;
mod layout;
mod marks;
mod svg;
mod tree;

pub use json::FormError;

#[cfg(test)]
mod tests;
