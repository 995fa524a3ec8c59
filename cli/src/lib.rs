//! Looks at a Regatta cluster, and operates it, from anywhere: all that it needs is the head's address and a token.
//!
//! The binary `regatta` is this and nothing else. Who ships one executable mounts it in a clap of their own:
//!
//! ```
//! use clap::Parser;
//!
//! #[derive(Parser)]
//! enum Program {
//!     /// Serves the cluster.
//!     Serve,
//!     /// Looks at it.
//!     Regatta(regatta_cli::Command),
//! }
//!
//! let Program::Regatta(command) = Program::parse_from(["program", "regatta", "workers"]) else { panic!() };
//! # if false {
//! command.run();
//! # }
//! ```

#![warn(missing_docs)]

mod asking;
mod client;
mod collector;
mod command;
mod doctor;
mod export;
mod failure;
mod history;
mod jobs;
mod out;
mod pages;
mod run;
#[cfg(test)]
mod testing;
mod top;

pub use clap;
pub use command::Command;
pub use failure::Failure;

/// The command line of the binary.
#[derive(Debug, clap::Parser)]
#[command(name = "regatta", version, about = "Looks at a Regatta cluster, and operates it.")]
pub struct Regatta {
    /// What is to be done.
    #[command(flatten)]
    pub command: Command,
}
