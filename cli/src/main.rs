//! The command `regatta`: looks at a cluster, and operates it.

use std::process::ExitCode;

use regatta_cli::Regatta;
use regatta_cli::clap::Parser;

fn main() -> ExitCode {
    Regatta::parse().command.run()
}
