//! Programs beside a head: its own executable with other arguments, each a driver of its cluster, for operators who submit them.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use regatta_observe::{JobLog, JobRow, JobState, Refusal};
use regatta_remote::{Authority, JoinToken, Role, fingerprint};

use crate::engine::nanoseconds;
use crate::notice::notice;
use crate::os;

/// Jobs of one head. Those that run end with this.
pub(crate) struct Jobs {
    /// As many run at once.
    most: usize,
    /// Where their programs find the head.
    head: SocketAddr,
    authority: Arc<Authority>,
    book: Arc<Book>,
}

/// What is known of all jobs.
#[derive(Default)]
struct Book {
    jobs: Mutex<VecDeque<Job>>,
}

struct Job {
    row: JobRow,
    began: Instant,
    /// Its program, until somebody has asked how that has ended.
    program: Option<Child>,
    /// Who wants it to stop, and when its program is killed for that.
    stops: Option<(String, Instant)>,
    token: JoinToken,
    log: Log,
}

/// The last lines that a program has printed.
#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that there were.
    count: u64,
}

/// What a program prints. Who has left its group may hold the pipe for ever: nobody reads on when the job is over.
struct Output {
    pipe: io::PipeReader,
    over: Arc<AtomicBool>,
}

/// Jobs that are remembered when they have ended.
const REMEMBERED: usize = 32;
/// Bytes that are kept of what a job prints.
const KEPT: usize = 512 << 10;
/// Processes that a job's token lets in, and for how long: it is revoked when the job has ended.
const DRIVERS: u32 = 16;
const VALID: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a program that is told to stop may take.
const STOP: Duration = Duration::from_secs(10);
/// How often is looked whether one has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long the last lines of one that has ended may take: what has left its group may hold the pipe.
const REST: Duration = Duration::from_millis(500);
/// How often who reads what a job prints looks whether it is over.
const SILENT: Duration = Duration::from_millis(250);

impl Jobs {
    /// No job yet; `most` of them at once.
    pub(crate) fn new(most: usize, head: SocketAddr, authority: Arc<Authority>) -> Self {
        let ip = match head {
            // Their programs run beside it.
            SocketAddr::V4(at) if at.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(at) if at.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            at => at.ip(),
        };
        Self { most, head: SocketAddr::new(ip, head.port()), authority, book: Arc::default() }
    }

    /// Starts this executable with these arguments. Blocks while that is looked at, and started.
    ///
    /// # Errors
    /// It is of another build than the one that is meant, too many jobs run, or it does not start.
    pub(crate) fn submit(&self, arguments: Vec<String>, build: &str, who: &str) -> Result<JobRow, Refusal> {
        static OURS: LazyLock<Result<String, String>> = LazyLock::new(|| {
            os::program().and_then(|program| fingerprint(&program)).map_err(|error| error.to_string())
        });
        let ours = OURS.as_ref().map_err(|why| failed("the head's program cannot be read", why))?;
        if build != ours {
            return Err(Refusal::Failed(format!(
                "the builds differ: the program that is meant is {build}, the head's is {ours}. A job is the head's own executable with \
                 other arguments: submit that one, or start the head anew with yours"
            )));
        }
        let mut jobs = self.book.lock();
        let running = jobs.iter().filter(|job| job.program.is_some()).count();
        if running >= self.most {
            return Err(Refusal::TooMuch(format!(
                "{running} jobs run already, as many as REGATTA_JOBS allows: wait for one, or stop one by `regatta jobs stop`"
            )));
        }
        let number = jobs.back().map_or(1, |last| last.row.job + 1);
        let token = self.authority.token_for(DRIVERS, Role::Driver, VALID).map_err(|e| failed("no token for it", e))?;
        let (program, output) = match start(&arguments, self.head, &token) {
            Ok(started) => started,
            Err(error) => {
                self.authority.revoke(&token);
                return Err(failed("its program does not start", error));
            }
        };
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let began_ms = u64::try_from(began_ms).unwrap_or(0);
        let row = JobRow { job: number, arguments, began_ms, ..JobRow::default() };
        let process = program.id();
        notice(format_args!("{who} has submitted {row}: process {process}"));
        let job = Job { row, began: os::now(), program: Some(program), stops: None, token, log: Log::default() };
        let row = job.row();
        jobs.push_back(job);
        drop(jobs);
        let (reads, ends, authority) = (Arc::clone(&self.book), Arc::clone(&self.book), Arc::clone(&self.authority));
        let over = Arc::new(AtomicBool::new(false));
        let output = Output { pipe: output, over: Arc::clone(&over) };
        let threads = named("regatta-job-output").spawn(move || reads.read(number, output)).and_then(|reader| {
            let ends = move || {
                ends.until_it_ends(number, process, &reader, &authority);
                over.store(true, Ordering::Relaxed);
            };
            named("regatta-job").spawn(ends)
        });
        if let Err(error) = threads {
            self.book.end(number, Some(&error.to_string()), &self.authority);
            return Err(failed("there is no thread for it", error));
        }
        Ok(row)
    }

    /// All that are remembered, the newest first.
    pub(crate) fn rows(&self) -> Vec<JobRow> {
        self.book.lock().iter().rev().map(Job::row).collect()
    }

    /// Lines that a job's program has printed, after this number.
    ///
    /// # Errors
    /// No such job is remembered.
    pub(crate) fn log(&self, number: u32, after: u64, lines: usize) -> Result<JobLog, Refusal> {
        let jobs = self.book.lock();
        let job = jobs.iter().find(|job| job.row.job == number).ok_or_else(|| nobody(number))?;
        let Log { lines: kept, count, .. } = &job.log;
        let forgotten = count - kept.len() as u64;
        let from = after.clamp(forgotten, *count);
        let lines: Vec<_> = kept.iter().skip((from - forgotten) as usize).take(lines).cloned().collect();
        let next = from + lines.len() as u64;
        Ok(JobLog { row: job.row(), lines, next, missed: forgotten.saturating_sub(after) })
    }

    /// Has a job's program end, and all that it has started: told to first, and killed if it has not within ten seconds.
    ///
    /// # Errors
    /// No such job is remembered, or it has ended.
    pub(crate) fn stop(&self, number: u32, who: &str) -> Result<JobRow, Refusal> {
        let mut jobs = self.book.lock();
        let job = jobs.iter_mut().find(|job| job.row.job == number).ok_or_else(|| nobody(number))?;
        let Some(program) = &job.program else {
            return Err(Refusal::NoSuch(format!("it does not run any more: {}", job.row())));
        };
        if job.stops.is_none() {
            // How it has ended is known in a moment, and it was not by this.
            if matches!(os::has_ended(program.id()), Ok(true)) {
                return Err(Refusal::NoSuch(format!("job {number} has ended just now: `regatta jobs` says how")));
            }
            notice(format_args!("{who} stops {}", job.row()));
            // Nobody else has its number as long as its end is not asked for. Its group may have none left.
            let _ = os::signal_group(program.id(), libc::SIGTERM);
            job.stops = Some((who.to_owned(), os::now() + STOP));
        }
        Ok(job.row())
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for job in self.book.lock().iter_mut().filter(|job| job.program.is_some()) {
            job.stops = Some(("the head, which ends".to_owned(), os::now()));
            job.kill();
        }
    }
}

impl Job {
    fn row(&self) -> JobRow {
        let runs = self.program.is_some();
        JobRow { time: if runs { nanoseconds(os::since(self.began)) } else { self.row.time }, ..self.row.clone() }
    }

    fn kill(&self) {
        let group = self.program.as_ref().map(Child::id);
        group.into_iter().for_each(|group| _ = os::signal_group(group, libc::SIGKILL));
    }
}

impl Read for Output {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while !self.over.load(Ordering::Relaxed) {
            if os::has_more(&self.pipe, SILENT)? {
                return self.pipe.read(bytes);
            }
        }
        Ok(0)
    }
}

impl Log {
    fn add(&mut self, line: String) {
        // An empty line takes room, too.
        let size = |line: &String| line.len() + size_of::<String>();
        self.count += 1;
        self.bytes += size(&line);
        self.lines.push_back(line);
        while self.bytes > KEPT {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| size(&line));
        }
    }
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a program prints, to the end of that.
    fn read(&self, number: u32, output: Output) {
        for line in os::lines(output) {
            if let Some(job) = self.lock().iter_mut().find(|job| job.row.job == number) {
                job.log.add(line);
            }
        }
    }

    /// Waits until a job's program has ended, and kills it if it was told to end and has not.
    fn until_it_ends(&self, number: u32, process: u32, reader: &JoinHandle<()>, authority: &Authority) {
        let of = |job: &&Job| job.row.job == number;
        // It is a child of ours whose end nobody else asks for: an error cannot be.
        while matches!(os::has_ended(process), Ok(false)) {
            if let Some(job) = self.lock().iter().find(of)
                && job.stops.as_ref().is_some_and(|(_, until)| os::now() >= *until)
            {
                job.kill();
            }
            thread::sleep(LOOK);
        }
        // What it has started is gone too before its last lines are waited for: that holds the pipe open.
        for job in self.lock().iter_mut().filter(|job| job.row.job == number) {
            job.row.time = nanoseconds(os::since(job.began));
            job.kill();
        }
        let until = os::now() + REST;
        while !reader.is_finished() && os::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        self.end(number, None, authority);
    }

    /// A job has ended, or must, for this reason; what its program has started goes with it.
    fn end(&self, number: u32, why: Option<&str>, authority: &Authority) {
        let mut jobs = self.lock();
        let Some(job) = jobs.iter_mut().find(|job| job.row.job == number) else { return };
        job.kill();
        if job.row.time == 0 {
            job.row.time = nanoseconds(os::since(job.began));
        }
        let how = job.program.take().and_then(|mut program| program.wait().ok());
        (job.row.state, job.row.how) = match (&job.stops, why) {
            (Some((who, _)), _) => (JobState::Stopped, Some(format!("by {who}"))),
            (None, Some(why)) => (JobState::Failed, Some(why.to_owned())),
            (None, None) if how.is_some_and(|status| status.success()) => (JobState::Done, None),
            (None, None) => (JobState::Failed, how.as_ref().map(ExitStatus::to_string)),
        };
        authority.revoke(&job.token);
        notice(format_args!("{}", job.row));
        while jobs.iter().filter(|job| job.program.is_none()).count() > REMEMBERED {
            let Some(oldest) = jobs.iter().position(|job| job.program.is_none()) else { break };
            jobs.remove(oldest);
        }
    }
}

/// Starts this executable as a driver of the cluster at `head`, in a group of its own; what it prints comes by one pipe.
fn start(arguments: &[String], head: SocketAddr, token: &JoinToken) -> io::Result<(Child, io::PipeReader)> {
    let mut command: Command = os::this_program()?;
    let (reads, writes) = io::pipe()?;
    command
        .args(arguments)
        .env("DAFT_RUNNER", "flotilla")
        .env("REGATTA_ADDRESS", head.to_string())
        .env("REGATTA_TOKEN", token.to_string())
        // The head's own, and not for who runs beside it.
        .env_remove("REGATTA_JOBS")
        .env_remove("REGATTA_DASHBOARD")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writes.try_clone()?)
        .stderr(writes);
    // The command's ends of the pipe are closed with it.
    Ok((command.spawn()?, reads))
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

fn failed(what: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(format!("{what}: {why}"))
}

fn nobody(number: u32) -> Refusal {
    Refusal::NoSuch(format!("no job {number} is known: `regatta jobs` has all that are"))
}
