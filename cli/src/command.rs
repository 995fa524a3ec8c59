//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use regatta_observe::{LogLevel, TokenRole};

use crate::Failure;
use crate::collector::{Collector, collector};

/// Looks at a cluster, or operates it. Exit code 0: done; 1: failed; 2: usage; 3: the head cannot be reached; 4: refused.
#[derive(Debug, Clone, Args)]
pub struct Command {
    /// The address of the cluster's head, host:port.
    #[arg(long, global = true, env = "REGATTA_ADDRESS", value_name = "HOST:PORT")]
    pub(crate) connect: Option<String>,

    /// A file with an observer's or operator's token; without it the variable REGATTA_TOKEN has the token.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Instead of a cluster: the folder in which sessions have kept what queries did (REGATTA_HISTORY there). For queries, query,
    /// findings and dashboard; no token is needed.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) history: Option<PathBuf>,

    /// JSON, for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) what: What,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum What {
    /// Where the cluster stands, or a query.
    Status {
        /// The last digits of the query's number.
        query: Option<String>,
        /// Say it again every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Queries that run, one a line.
    Queries {
        /// Those that have ended, too, as far as they are remembered.
        #[arg(long)]
        all: bool,
    },
    /// What a query did or does, as a tree that ends with what is wrong and what to change.
    #[command(visible_alias = "profile")]
    Query {
        /// The last digits of its number.
        query: String,
        /// In which form.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
        /// Everything that is known, in the text.
        #[arg(long)]
        full: bool,
        /// How it is run, without figures.
        #[arg(long)]
        explain: bool,
        /// Into this file.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Workers, one a line.
    Workers,
    /// Pools of UDF replicas, one a line.
    Pools,
    /// What is wrong with a query, or with the newest ones, and what to change.
    Findings {
        /// The last digits of the query's number.
        query: Option<String>,
    },
    /// Stops a query. Needs an operator's token.
    Cancel {
        /// The last digits of its number.
        query: String,
    },
    /// Has a worker leave in order: it gets nothing new, and others get what it holds. Needs an operator's token.
    Drain {
        /// Its number.
        worker: u32,
        /// Within this time at most: 30s, 10m.
        #[arg(long, default_value = "5m", value_parser = time, value_name = "TIME")]
        within: Duration,
    },
    /// Makes a token, and writes it to standard output. Needs an operator's token.
    Token {
        /// What whoever joins with it is for.
        #[arg(value_enum)]
        role: For,
        /// How many processes it lets in. One; any number for observers.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// For how long: 30s, 10m, 1h, 7d.
        #[arg(long = "for", default_value = "1h", value_parser = time, value_name = "TIME")]
        time: Duration,
    },
    /// Has the head run its own program beside it, as a driver of its cluster, and follows what that prints. Needs an operator's token, and
    /// a head that accepts jobs (REGATTA_JOBS). The job goes on if this is interrupted.
    Submit {
        /// Says its number and ends, instead of following it.
        #[arg(long)]
        detach: bool,
        /// The program: the same executable as the head's, which is checked. It is not sent.
        #[arg(required = true, value_name = "PROGRAM")]
        program: PathBuf,
        /// What it is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Programs that were submitted, one a line.
    Jobs {
        #[command(subcommand)]
        what: Option<OfJob>,
    },
    /// Lines of the workers' logs: information and worse, as far as they are remembered.
    Logs {
        /// And those that come.
        #[arg(short, long)]
        follow: bool,
        /// Of this worker.
        #[arg(long)]
        worker: Option<u32>,
        /// Of the query whose number ends with these digits.
        #[arg(long)]
        query: Option<String>,
        /// Of this task, whatever its stage.
        #[arg(long)]
        task: Option<u32>,
        /// Of UDFs with this in their name.
        #[arg(long)]
        udf: Option<String>,
        /// That matter at least so much.
        #[arg(long, value_enum)]
        level: Option<Level>,
        /// So many of the newest.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u32,
    },
    /// Why a query is not further: what its stages wait for, down to what waits for nothing.
    Why {
        /// The last digits of its number.
        query: String,
    },
    /// Whether this cluster can be looked at from here, and is well: a line for each thing that may be wrong, with what to do.
    Doctor,
    /// All figures of the cluster, as Prometheus reads them.
    Metrics,
    /// Sends what the cluster does to a collector, by OpenTelemetry's protocol (OTLP) over HTTP: figures every so often, and each
    /// query as spans when it has ended, with those of its UDFs. Ends when it is interrupted.
    Export {
        /// Where the collector listens, as http://127.0.0.1:4318.
        #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = collector, value_name = "URL")]
        to: Collector,
        /// How often: 15s, 1m.
        #[arg(long, default_value = "15s", value_parser = time, value_name = "TIME")]
        every: Duration,
        /// Once, with all queries that have ended and are remembered, and no more.
        #[arg(long)]
        once: bool,
    },
    /// A screen of queries and workers that follows the cluster.
    Top,
    /// Pages for a browser, which follow the cluster. Writes the address to open, with a token of its own; ends when it is interrupted.
    Dashboard {
        /// Where it is served; a port that is taken is left for the next one that is free. Elsewhere than on this machine's loopback
        /// everything, the token too, crosses the network as it is: put a proxy with TLS before it.
        #[arg(long, default_value = "127.0.0.1:7780", value_name = "IP:PORT")]
        listen: SocketAddr,
        /// Answers under this name too, as a proxy asks.
        #[arg(long, value_name = "NAME")]
        host: Vec<String>,
        /// Whoever looks may also cancel queries. Needs an operator's token.
        #[arg(long)]
        control: bool,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum OfJob {
    /// What a job has printed, as far as it is remembered.
    Log {
        /// Its number.
        job: u32,
        /// And what it prints from now on, until it ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Stops a job, with all that it has started: it is told to end, and killed ten seconds later. Needs an operator's token.
    Stop {
        /// Its number.
        job: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Text,
    Json,
    Mermaid,
    Dot,
    Svg,
    Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum For {
    Worker,
    Driver,
    Observer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
        }
    }
}

impl From<For> for TokenRole {
    fn from(role: For) -> Self {
        match role {
            For::Worker => Self::Worker,
            For::Driver => Self::Driver,
            For::Observer => Self::Observer,
        }
    }
}

impl Command {
    /// The address, and the token.
    pub(crate) fn at(&self) -> Result<(String, String), Failure> {
        let usage = |what: &str| Failure::Usage(what.to_owned());
        let no_address = || usage("which cluster? --connect host:port, or REGATTA_ADDRESS, says where its head is");
        let no_token = || {
            usage("which token? --token-file, or REGATTA_TOKEN, has one of Cluster::observer_token or operator_token")
        };
        let address = self.connect.clone().ok_or_else(no_address)?;
        let token = match &self.token_file {
            Some(file) => std::fs::read_to_string(file).map_err(|error| {
                Failure::Failed(format!("the token cannot be read from {}: {error}", file.display()))
            })?,
            None => std::env::var("REGATTA_TOKEN").map_err(|_| no_token())?,
        };
        Ok((address, token))
    }
}

/// A time as people write it: a number and `s`, `m`, `h` or `d`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write a number and s, m, h or d, as in 90s or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(each).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use clap::{Arg, CommandFactory};

    use super::*;
    use crate::Regatta;

    /// An argument as `--help` has it: how it is written, and what it is.
    fn row(arg: &Arg) -> String {
        let value = arg.get_action().takes_values();
        let names =
            arg.get_value_names().filter(|_| value).map(|names| match arg.is_positional() && !arg.is_required_set() {
                true => format!("[{}]", names.join("] [")),
                false => format!("<{}>", names.join("> <")),
            });
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        let words: Vec<_> = [short, long, names].into_iter().flatten().collect();
        let mut about = format!("{}.", arg.get_help().unwrap_or_default());
        let values: Vec<_> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if value && !values.is_empty() {
            write!(about, " One of {}.", values.join(", ")).unwrap();
        }
        if let [unless_said] = arg.get_default_values() {
            write!(about, " Unless said, `{}`.", unless_said.to_string_lossy()).unwrap();
        }
        if let Some(variable) = arg.get_env() {
            write!(about, " Or `{}`.", variable.to_string_lossy()).unwrap();
        }
        format!("| `{}` | {about} |\n", words.join(" "))
    }

    fn table(args: &[&Arg]) -> String {
        let rows = args.iter().filter(|arg| arg.get_id() != "help" && arg.get_id() != "version").map(|arg| row(arg));
        let rows: String = rows.collect();
        if rows.is_empty() { rows } else { format!("\n| | |\n|---|---|\n{rows}") }
    }

    fn section(command: &clap::Command, of: &str, help: &mut String) {
        let name = format!("{of} {}", command.get_name());
        let about = command.get_about().unwrap_or_default();
        let also: Vec<_> = command.get_visible_aliases().map(|also| format!(" Also `{of} {also}`.")).collect();
        let args = table(&command.get_arguments().collect::<Vec<_>>());
        write!(help, "\n## `{name}`\n\n{about}.{}\n{args}", also.concat()).unwrap();
        command.get_subcommands().for_each(|command| section(command, &name, help));
    }

    #[test]
    fn the_page_on_the_command_has_what_help_has() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/book/src/cli.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (begin, rest) = page.split_once("<!-- help -->\n").unwrap();
        let (is, end) = rest.split_once("<!-- /help -->").unwrap();
        let regatta = Regatta::command();
        let mut help = format!("## With every command\n{}", table(&regatta.get_arguments().collect::<Vec<_>>()));
        regatta.get_subcommands().for_each(|command| section(command, "regatta", &mut help));
        if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
            std::fs::write(path, format!("{begin}<!-- help -->\n{help}<!-- /help -->{end}")).unwrap();
        } else {
            assert!(
                is == help,
                "docs/book/src/cli.md is not what the code says: run this with REGATTA_TEST_GOLDEN=write"
            );
        }
    }

    #[test]
    fn times_are_numbers_with_a_unit() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        assert_eq!(
            (seconds("90s"), seconds("10m"), seconds("1h"), seconds("7d")),
            (Ok(90), Ok(600), Ok(3600), Ok(604_800))
        );
        for wrong in ["", "h", "1", "-1s", "0s", "1w", "1é", "99999999999999999999s", "999999999999999999d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
