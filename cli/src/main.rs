//! The command `regatta`: looks at a cluster, and operates it.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "regatta", version, about = "Looks at a Regatta cluster, and operates it.")]
struct Regatta {
    #[command(flatten)]
    command: regatta_cli::Command,
}

fn main() -> ExitCode {
    Regatta::parse().command.run()
}
