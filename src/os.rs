//! Calls to the operating system. Linux is tested.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use regatta_observe::Sample;

/// CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory that this process may use: of the machine, or of its control group if that has less.
pub(crate) fn memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(total.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    });
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.unwrap_or(UNKNOWN).min(group_memory(&groups, Path::new("/sys/fs/cgroup")))
}

/// The least that one of a process's control groups, or one above them, leaves it: of both versions, whose groups are below `root`. In a
/// container the root is often all that there is to see of them.
fn group_memory(groups: &str, root: &Path) -> u64 {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            of if of.split(',').any(|of| of == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let own = root.join(group);
        let above = own.ancestors().take_while(|above| above.starts_with(&root));
        let limit = |at: &Path| std::fs::read_to_string(at.join(file)).ok()?.trim().parse::<u64>().ok();
        above.filter_map(limit).min()
    });
    limits.min().unwrap_or(UNKNOWN)
}

/// Sets a variable of this process, for what reads it later and for what is started from here.
pub(crate) fn set_variable(name: &str, value: &str) {
    // SAFETY: it is called before this process has any other thread.
    unsafe { std::env::set_var(name, value) };
}

/// Columns and lines of the terminal that standard error is.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: it is written to a place of ours, of the type that this request names.
    let known = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    (known && size.ws_col > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// What this process uses, if the system says so.
pub(crate) fn usage() -> Option<Sample> {
    // SAFETY: all of it is integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: it is written to a place of ours, of the type that it is.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return None;
    }
    let time = |of: libc::timeval| of.tv_sec as u64 * 1_000_000_000 + of.tv_usec as u64 * 1000;
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let peak = usage.ru_maxrss as u64 * unit;
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    // SAFETY: it asks for a number and takes no pointer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let memory = resident.map_or(peak, |pages| pages * u64::try_from(page).unwrap_or(0));
    Some(Sample { cpu: time(usage.ru_utime) + time(usage.ru_stime), memory, peak: peak.max(memory) })
}

/// Memory where the system does not say how much: enough for any request, and sums of it do not overflow.
pub(crate) const UNKNOWN: u64 = u64::MAX >> 20;

/// The user that this process runs as; 0 where the system does not say.
pub(crate) fn user_id() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

/// This machine, as others call it; a stand-in where the system does not say.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

/// The executable that this process runs.
///
/// # Errors
/// The system does not say which it is, or lets nobody read it.
pub(crate) fn program() -> io::Result<File> {
    if cfg!(target_os = "linux") { File::open(RUNNING) } else { File::open(std::env::current_exe()?) }
}

/// Starts the executable that this process runs: that one, though another may have its name by now, as after a build.
///
/// # Errors
/// The system does not say which it is.
pub(crate) fn this_program() -> io::Result<Command> {
    let path = std::env::current_exe()?;
    let which = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let is_there = which(&path).is_some_and(|file| which(Path::new(RUNNING)).is_none_or(|running| running == file));
    Ok(if is_there { Command::new(path) } else { Command::new(RUNNING) })
}

/// What Linux calls the executable of whoever asks.
const RUNNING: &str = "/proc/self/exe";

/// How a process that this one has started has ended, without taking that from whoever waits for it. `None`: it has not within this
/// time, or somebody has taken it.
pub(crate) fn how_it_ended(process: u32, within: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + within;
    loop {
        // SAFETY: zero is a value of all that it consists of.
        let mut child: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: it is written to a place of ours, of the type that it is.
        if unsafe { libc::waitid(libc::P_PID, process, &raw mut child, options) } != 0 {
            return None;
        }
        // SAFETY: these are the fields that the call has written; zero if the process has not ended.
        let (found, how) = unsafe { (child.si_pid(), child.si_status()) };
        if found != 0 {
            let exited = child.si_code == libc::CLD_EXITED;
            return Some(ExitStatus::from_raw(if exited { (how & 0xff) << 8 } else { how }));
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// This machine, as far as processes on it see the same files; another number for every other.
pub(crate) fn machine() -> u64 {
    static MACHINE: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let files = std::fs::read_link("/proc/self/ns/mnt").ok();
        match (boot, files) {
            (Some(boot), Some(files)) => BuildHasherDefault::<DefaultHasher>::default().hash_one((boot, files)),
            // It does not say: then this process is alone on it.
            _ => random(),
        }
    });
    *MACHINE
}

/// The time, by a clock that only goes forward; of a simulation, in one.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago that was, by the same clock.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A number that no other process has drawn. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one((std::process::id(), std::thread::current().id()))
}

/// The address of this machine from which it sends to another: the one at which that, and what is near it, finds us.
/// Nothing is sent.
///
/// # Errors
/// There is no way there.
pub(crate) fn address_towards(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Bytes of a line that another process prints; a longer one comes in pieces.
pub(crate) const LINE: u64 = 8 << 10;

/// The lines that another process prints, to the end of its output.
pub(crate) fn lines(pipe: impl Read) -> impl Iterator<Item = String> {
    let mut pipe = BufReader::new(pipe);
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        let length = pipe.by_ref().take(LINE).read_until(b'\n', &mut line).ok()?;
        (length > 0).then(|| String::from_utf8_lossy(&line).trim_end().to_owned())
    })
}

/// Sends bytes to the process at the other end of a socket, and with the first of them a copy of an open file. Returns how many
/// were sent: one at least.
pub(crate) fn send_with_file(to: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control::default();
    let message = control.message(&mut part);
    // SAFETY: the message points to what lives until the call is over and is only read, and `control` has room for one header
    // and one file.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(file.as_raw_fd());
        uninterrupted(|| libc::sendmsg(to.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL))
    }
}

/// The next bytes that the process at the other end sends, none once it has gone, and the open file that came with them.
pub(crate) fn receive_with_file(from: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control::default();
    let mut message = control.message(&mut part);
    // SAFETY: as above, but that the bytes are written to; the descriptor that comes is open and ours alone.
    unsafe {
        let received = uninterrupted(|| libc::recvmsg(from.as_raw_fd(), &raw mut message, CLOSE_ON_EXEC))?;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Ok((received, None));
        }
        let file = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
        Ok((received, Some(OwnedFd::from_raw_fd(file))))
    }
}

#[cfg(target_os = "linux")]
const CLOSE_ON_EXEC: libc::c_int = libc::MSG_CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOSE_ON_EXEC: libc::c_int = 0;

/// An empty file that is memory and has no name: for processes that it is handed to. It never gets shorter, so that what is
/// mapped of it stays there.
#[cfg(target_os = "linux")]
pub(crate) fn shared_memory() -> io::Result<File> {
    // SAFETY: the name is a C string; the descriptor is new and ours alone.
    let file = unsafe {
        let file = libc::memfd_create(c"regatta".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        done(file)?;
        File::from_raw_fd(file)
    };
    // SAFETY: it takes a number.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) })?;
    Ok(file)
}

/// As above, but on disk, and nothing keeps a process from shortening it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn shared_memory() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("regatta-{:016x}", random()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Waits until a child of this process has ended, and leaves its status to whoever asks for it.
///
/// # Errors
/// There is no such child.
pub(crate) fn until_ended(child: u32) -> io::Result<()> {
    ended(child, 0).map(drop)
}

/// Whether a child of this process has ended, whose status nobody has asked for yet.
///
/// # Errors
/// There is no such child.
pub(crate) fn has_ended(child: u32) -> io::Result<bool> {
    ended(child, libc::WNOHANG)
}

fn ended(child: u32, flags: libc::c_int) -> io::Result<bool> {
    loop {
        // SAFETY: zeros are a value of this C struct, which the call writes to.
        let (waited, status) = unsafe {
            let mut status: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(libc::P_PID, child, &raw mut status, libc::WEXITED | libc::WNOWAIT | flags), status)
        };
        match done(waited) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            // SAFETY: it is what the call has written, or zeros if there was nothing to say.
            waited => return waited.map(|()| unsafe { status.si_pid() } != 0),
        }
    }
}

/// Whether there is something to read of a pipe, or its end, within a time. Blocks until then.
///
/// # Errors
/// As `poll`.
pub(crate) fn has_more(pipe: &impl AsRawFd, within: Duration) -> io::Result<bool> {
    let mut of = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let within = libc::c_int::try_from(within.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: it reads and writes one of these, which outlives the call.
    match done(unsafe { libc::poll(&raw mut of, 1, within) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        polled => polled.map(|()| of.revents != 0),
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// There is none, or it is another user's.
pub(crate) fn signal(process: u32, signal: libc::c_int) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: it takes two numbers.
    done(unsafe { libc::kill(process, signal) })
}

/// Sends a signal to a process and all that it has started, of those that stayed in its group.
///
/// # Errors
/// There is none, or it is another user's.
pub(crate) fn signal_group(leader: u32, signal: libc::c_int) -> io::Result<()> {
    let leader = libc::pid_t::try_from(leader).map_err(io::Error::other)?;
    // SAFETY: it takes two numbers.
    done(unsafe { libc::kill(-leader, signal) })
}

/// Keeps signals from ending this process: what they are to do is called, in a thread of its own, with the number of each that comes.
/// That also holds for the first process of a container, for which the system does nothing of itself. Whom this process starts is
/// ended by them as ever.
///
/// # Errors
/// There is no pipe or thread, or a number is none of a signal.
pub(crate) fn heed(signals: &[libc::c_int], does: impl Fn(libc::c_int) + Send + Sync + 'static) -> io::Result<()> {
    let mut heeding = HEEDING.lock().unwrap_or_else(PoisonError::into_inner);
    if heeding.is_empty() {
        let (mut noted, to) = io::pipe()?;
        // A handler must not wait, however many signals nobody has read yet.
        // SAFETY: it takes numbers.
        done(unsafe { libc::fcntl(to.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
        std::thread::Builder::new().name("regatta-signals".to_owned()).spawn(move || {
            let mut signal = [0];
            // Its other end is never closed.
            while noted.read_exact(&mut signal).is_ok() {
                let heeding = HEEDING.lock().unwrap_or_else(PoisonError::into_inner).clone();
                heeding.iter().for_each(|does| does(signal[0].into()));
            }
        })?;
        NOTES.store(to.into_raw_fd(), Ordering::Relaxed);
    }
    heeding.push(Arc::new(does));
    for signal in signals {
        // SAFETY: zeros are a value of this C struct.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: `note` is a function that a handler may be, and the struct lives until the call is over.
        done(unsafe { libc::sigaction(*signal, &raw const action, std::ptr::null_mut()) })?;
    }
    Ok(())
}

/// Who is told of signals.
static HEEDING: Mutex<Vec<Heeds>> = Mutex::new(Vec::new());
type Heeds = Arc<dyn Fn(libc::c_int) + Send + Sync>;
/// Where they are noted.
static NOTES: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: a handler may write, of a place that lives until that is over; and what it has interrupted finds its error as it was.
    unsafe {
        #[cfg(target_os = "linux")]
        let error = *libc::__errno_location();
        libc::write(NOTES.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        #[cfg(target_os = "linux")]
        libc::__errno_location().write(error);
    }
}

/// Files that this process may have open at once.
///
/// # Errors
/// The system does not say.
pub(crate) fn open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes the struct that it is given, and no more.
    done(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit.rlim_cur)
}

/// Ends this process at once, without what is to be done at its end: a driver's part of that may hang.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: it does not return, and what it leaves is the system's.
    unsafe { libc::_exit(code) }
}

/// Room for one descriptor beside a message, aligned as its header is.
#[derive(Default)]
struct Control([u64; 4]);

impl Control {
    fn message(&mut self, part: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: zeros are a value of this C struct.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = part;
        message.msg_iovlen = 1;
        message.msg_control = self.0.as_mut_ptr().cast();
        // SAFETY: it computes a size.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as _;
        message
    }
}

/// Makes a folder that only this user can look into; it may be there already.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Keeps this process from allocating more than so much beyond what it has now. What is mapped from files does not count.
///
/// # Errors
/// The system has no such limit, or refuses it.
pub(crate) fn limit_memory(bytes: u64) -> io::Result<()> {
    let most = data_bytes()?.saturating_add(bytes);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: it reads the struct that it is given, and no more.
    done(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) })
}

/// Swaps two files or folders of one file system, in one step.
///
/// # Errors
/// The file system, or the system, cannot do that.
#[cfg(target_os = "linux")]
pub(crate) fn swap(one: &Path, other: &Path) -> io::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, other) = (path(one)?, path(other)?);
    // SAFETY: the paths are C strings that live until the call is over. By its number, since not every C library has it.
    let swapped = unsafe {
        let (here, how) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
        libc::syscall(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), how)
    };
    done(swapped as libc::c_int)
}

/// Nothing else does it in one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn swap(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Puts a file in the place of this process's standard input.
///
/// # Errors
/// The system refuses it.
pub(crate) fn replace_stdin(file: &File) -> io::Result<()> {
    // SAFETY: both are open file descriptors, and `file` stays so during the call.
    done(unsafe { libc::dup2(file.as_raw_fd(), libc::STDIN_FILENO) })
}

/// A file of this name makes a folder's disk full, for tests.
#[cfg(test)]
pub(crate) const FULL: &str = "full";

/// Bytes that may still be written to the disk of a folder, and those that it has in all.
///
/// # Errors
/// The folder is not there.
pub(crate) fn room(folder: &Path) -> io::Result<(u64, u64)> {
    #[cfg(test)]
    if folder.join(FULL).exists() {
        return Ok((0, 1));
    }
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let mut disk = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a C string, and the call writes one such struct.
    done(unsafe { libc::statvfs(path.as_ptr(), disk.as_mut_ptr()) })?;
    // SAFETY: it has.
    let disk = unsafe { disk.assume_init() };
    // Their types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    let in_bytes = |blocks| (blocks as u64).saturating_mul(disk.f_frsize as u64);
    Ok((in_bytes(disk.f_bavail), in_bytes(disk.f_blocks)))
}

/// Gives the disk back what a range of a file takes. Its bytes are then zero, and the file as long as before.
///
/// # Errors
/// The file system cannot do that.
#[cfg(target_os = "linux")]
pub(crate) fn give_back(file: &File, range: Range<u64>) -> io::Result<()> {
    let (start, len) = (range.start as libc::off_t, (range.end - range.start) as libc::off_t);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: it takes numbers, and the file is open.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) })
}

/// As above, which not every system can do.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back(_: &File, _: Range<u64>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Calls again after a signal.
fn uninterrupted(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let answer = usize::try_from(call()).map_err(|_| io::Error::last_os_error());
        if !answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            return answer;
        }
    }
}

fn done(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes that this process has allocated, as its limit counts them.
fn data_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.ok_or(io::ErrorKind::Unsupported)? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_a_group_or_one_above_it_leaves_is_what_counts() {
        let root = tempfile::tempdir().unwrap();
        let limit = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let memory = |groups: &str| group_memory(groups, root.path());
        assert_eq!(memory("0::/\n"), UNKNOWN);
        limit("system.slice/memory.max", "4096\n");
        limit("system.slice/job/memory.max", "max\n");
        limit("memory/slurm/memory.limit_in_bytes", "2048\n");
        limit("memory/slurm/step/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory("0::/system.slice/job\n"), 4096, "the one above");
        assert_eq!(memory("5:cpu,cpuacct:/slurm/step\n4:memory:/slurm/step\n"), 2048);
        assert_eq!(memory("4:memory:/slurm/step\n0::/system.slice\n"), 2048, "of both versions");
        limit("memory.max", "1024\n");
        assert_eq!(memory("0::/not/to/be/seen\n"), 1024, "in a container");
    }
}
