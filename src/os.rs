//! Calls to the operating system. Linux is tested.

use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(feature = "gpu")]
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

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
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok()).unwrap_or(UNKNOWN);
    machine.unwrap_or(UNKNOWN).min(group)
}

/// Memory where the system does not say how much: enough for any request, and sums of it do not overflow.
const UNKNOWN: u64 = u64::MAX >> 20;

/// The user that this process runs as; 0 where the system does not say.
pub(crate) fn user_id() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

/// This machine, as others call it; a stand-in where the system does not say.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
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

/// Hands a copy of an open file to the process at the other end of a socket.
pub(crate) fn send_file(to: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut word = [1u8];
    let mut part = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control::default();
    let message = control.message(&mut part);
    // SAFETY: the message points to what lives until the call is over, and `control` has room for one header and one file.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(file.as_raw_fd());
        libc::sendmsg(to.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The next open file that the process at the other end hands over; `None` once it has gone.
#[cfg(feature = "gpu")]
pub(crate) fn receive_file(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut word = [0u8];
    let mut part = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control::default();
    loop {
        let mut message = control.message(&mut part);
        // SAFETY: as above; the descriptor that comes is open and ours alone.
        unsafe {
            match libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) {
                0 => return Ok(None),
                1 => (),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
                _ => return Err(io::Error::last_os_error()),
            }
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
                return Err(io::Error::other("a word without a file"));
            }
            let file = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
            return Ok(Some(OwnedFd::from_raw_fd(file)));
        }
    }
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

/// Puts a file in the place of this process's standard input.
///
/// # Errors
/// The system refuses it.
pub(crate) fn replace_stdin(file: &File) -> io::Result<()> {
    // SAFETY: both are open file descriptors, and `file` stays so during the call.
    done(unsafe { libc::dup2(file.as_raw_fd(), libc::STDIN_FILENO) })
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
