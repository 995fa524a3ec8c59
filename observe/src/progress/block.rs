//! The block at a terminal: drawn over what was drawn before, under what others write.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::draw::last;
use super::{Progress, Room, Shown};
use crate::QueryState;

/// Draws where queries stand at the bottom of a terminal.
#[derive(Debug, Default)]
pub struct Block {
    shown: Shown,
    lines: Vec<String>,
    /// Queries whose last line was written.
    over: BTreeSet<String>,
    /// A query's stages stay to be seen when it has ended.
    pub persist: bool,
}

impl Block {
    /// Nothing is shown.
    pub const fn new() -> Self {
        Self { shown: Shown::new(), lines: Vec::new(), over: BTreeSet::new(), persist: false }
    }

    /// Shows where these queries stand. Those that have ended leave a line, once.
    ///
    /// # Errors
    /// The terminal's.
    pub fn show(&mut self, queries: &[Progress], room: Room, to: &mut impl Write) -> io::Result<()> {
        let (running, ended): (Vec<_>, Vec<_>) =
            queries.iter().cloned().partition(|query| query.state == QueryState::Running);
        let mut above = Vec::new();
        self.over.retain(|id| queries.iter().any(|query| query.id == *id));
        for query in ended {
            if self.over.insert(query.id.clone()) {
                if self.persist {
                    above.extend(self.shown.draw(std::slice::from_ref(&query), Room { height: 200, ..room }));
                }
                above.push(last(&query));
            }
        }
        let lines = if running.is_empty() { Vec::new() } else { self.shown.draw(&running, room) };
        if above.is_empty() && lines == self.lines {
            return Ok(());
        }
        let mut text = self.clear();
        above.iter().for_each(|line| text.push_str(&format!("{line}\r\n")));
        self.lines = lines;
        text.push_str(&self.block());
        to.write_all(text.as_bytes())?;
        to.flush()
    }

    /// Writes what somebody else has to say, above the block.
    ///
    /// # Errors
    /// The terminal's.
    pub fn above(&mut self, what: &[u8], to: &mut impl Write) -> io::Result<()> {
        to.write_all(self.clear().as_bytes())?;
        to.write_all(what)?;
        if !what.ends_with(b"\n") && !self.lines.is_empty() {
            to.write_all(b"\r\n")?;
        }
        to.write_all(self.block().as_bytes())?;
        to.flush()
    }

    /// Whether nothing is shown.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the block away.
    ///
    /// # Errors
    /// The terminal's.
    pub fn take_away(&mut self, to: &mut impl Write) -> io::Result<()> {
        let text = self.clear();
        self.lines.clear();
        to.write_all(text.as_bytes())?;
        to.flush()
    }

    /// Moves to where the block begins and clears all from there on.
    fn clear(&self) -> String {
        if self.lines.is_empty() { String::new() } else { format!("\r\x1b[{}A\x1b[J", self.lines.len()) }
    }

    fn block(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\r\n")).collect()
    }
}
