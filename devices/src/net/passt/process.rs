//! The child: how it is started, watched and ended.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use nix::fcntl::OFlag;

use super::{MAX_FRAME, PREFIX};

/// What `passt` is to do.
#[derive(Debug, Clone)]
pub struct PasstConfig {
    /// The program; found on `PATH` if it has no slash.
    pub program: PathBuf,
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<Forward>,
    /// The largest packet the guest is told to send.
    pub mtu: u16,
}

impl Default for PasstConfig {
    fn default() -> Self {
        Self {
            program: "passt".into(),
            forwards: Vec::new(),
            mtu: 1500,
        }
    }
}

/// A transport protocol whose ports can be forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads into the guest: `[tcp:|udp:][ADDRESS/]HOSTPORT[:GUESTPORT]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address to listen on; all of them if there is none.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl Forward {
    /// As `passt` takes it, after a flag that says which protocol.
    fn ports(&self) -> String {
        let ports = format!("{}:{}", self.host, self.guest);
        match self.address {
            Some(address) => format!("{address}/{ports}"),
            None => ports,
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}:{}", self.ports())
    }
}

impl FromStr for Forward {
    type Err = PasstError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (protocol, rest) = match text.split_once(':') {
                Some(("tcp", rest)) => (Protocol::Tcp, rest),
                Some(("udp", rest)) => (Protocol::Udp, rest),
                _ => (Protocol::Tcp, text),
            };
            let (address, ports) = match rest.rsplit_once('/') {
                Some((address, ports)) => (Some(address.parse().ok()?), ports),
                None => (None, rest),
            };
            let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
            let port = |text: &str| text.parse().ok().filter(|&p: &u16| p != 0);
            Some(Self {
                protocol,
                address,
                host: port(host)?,
                guest: port(guest)?,
            })
        };
        parse().ok_or_else(|| PasstError::Forward(text.to_owned()))
    }
}

/// Why there is no `passt`.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// A port forward that makes no sense.
    #[error(
        "'{0}' is no port forward; write [tcp:|udp:][ADDRESS/]HOSTPORT[:GUESTPORT], such as tcp:2222:22"
    )]
    Forward(String),
    /// A port of the host's that is taken or not ours to take. `passt` itself would go on
    /// without it and say nothing.
    #[error("port forward {forward}: cannot listen on the host's port {}", forward.host)]
    Port {
        /// What was asked for.
        forward: Forward,
        /// Why it cannot be.
        #[source]
        source: io::Error,
    },
    /// Not installed.
    #[error("cannot start {program}; it is in the package 'passt'")]
    Start {
        /// What was to be started.
        program: String,
        /// Why that failed.
        #[source]
        source: io::Error,
    },
    /// It ran and gave up; in its own words.
    #[error("passt: {0}")]
    GaveUp(String),
    /// It runs, but does not speak its protocol.
    #[error("passt answers with something that is no frame")]
    Nonsense,
    /// No socket to talk to it.
    #[error("a socket for passt")]
    Socket(#[source] io::Error),
}

/// How long to wait for its first frame. Without IPv4 there is none: it then counts as
/// ready if it still runs.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take to end once it closed its socket.
const GRACE: Duration = Duration::from_millis(50);

/// A running `passt`. Dropping it ends it.
pub(super) struct Child {
    process: std::process::Child,
    /// What it says, never blocking it: what nobody reads is lost.
    words: std::fs::File,
}

impl Child {
    /// Starts it, connected to the stream returned. It also dies with the calling thread,
    /// which should therefore live as long as the VM; where it cannot (it drops root, which
    /// undoes that), it ends when it finds the stream closed.
    pub(super) fn start(config: &PasstConfig) -> Result<(Self, UnixStream), PasstError> {
        config.forwards.iter().try_for_each(check_port)?;
        let (ours, theirs) = UnixStream::pair().map_err(PasstError::Socket)?;
        let (words, say) = pipe().map_err(PasstError::Socket)?;
        let mut command = command(config, &theirs);
        command.stderr(say);
        let spawned = command.spawn().map_err(|source| PasstError::Start {
            program: config.program.display().to_string(),
            source,
        })?;
        // The command holds our copies of the child's ends: without it they can end.
        drop((command, theirs));
        let mut child = Self {
            process: spawned,
            words: words.into(),
        };
        child.await_ready(&ours)?;
        Ok((child, ours))
    }

    /// `passt` does not say when it is set up, so it is asked something that it answers:
    /// who has some address, in ARP. It answers for every address but the guest's.
    fn await_ready(&mut self, mut stream: &UnixStream) -> Result<(), PasstError> {
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(PasstError::Socket)?;
        let mut prefix = [0; PREFIX];
        let asked = stream.write_all(&probe());
        if let Err(e) = asked.and_then(|()| stream.read_exact(&mut prefix)) {
            let silent = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            return match self.process.try_wait() {
                Ok(None) if silent => Ok(()),
                _ => Err(self.gave_up()),
            };
        }
        let len = u32::from_be_bytes(prefix) as usize;
        if len > MAX_FRAME {
            return Err(PasstError::Nonsense);
        }
        let answer = stream.read_exact(&mut vec![0; len]);
        answer.map_err(|_| self.gave_up())
    }

    fn gave_up(&mut self) -> PasstError {
        // Whatever it still does, it is of no use; its last words are out once it is gone.
        std::thread::sleep(GRACE);
        let _ = self.process.kill();
        let _ = self.process.wait();
        let words = self.last_words();
        PasstError::GaveUp(words.unwrap_or_else(|| "it ended without saying why".to_owned()))
    }

    /// What it said last, as one line.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let mut said = vec![0; 1 << 16];
        let got = self.words.read(&mut said).ok()?;
        let said = String::from_utf8_lossy(&said[..got]);
        let lines: Vec<_> = said.lines().map(str::trim).filter(|l| !noise(l)).collect();
        let last = &lines[lines.len().saturating_sub(4)..];
        (!last.is_empty()).then(|| last.join("; "))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Takes a port and lets go of it.
fn check_port(forward: &Forward) -> Result<(), PasstError> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let at = (forward.address.unwrap_or(any), forward.host);
    let bound = match forward.protocol {
        Protocol::Tcp => TcpListener::bind(at).map(drop),
        Protocol::Udp => UdpSocket::bind(at).map(drop),
    };
    bound.map_err(|source| PasstError::Port {
        forward: *forward,
        source,
    })
}

fn command(config: &PasstConfig, socket: &UnixStream) -> Command {
    let mut command = Command::new(&config.program);
    command
        .args(["--foreground", "--quiet", "--stderr"])
        .args(["--mtu", &config.mtu.to_string()])
        .args(["--fd", &socket.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    for forward in &config.forwards {
        let flag = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        command.args([flag, &forward.ports()]);
    }
    let socket = socket.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe calls are made, on a descriptor
    // that the parent keeps open until after the fork.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            match libc::fcntl(socket, libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    command
}

/// A pipe that neither end ever waits on.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

/// A framed ARP probe (RFC 5227 §1.1) of an address that nobody has.
fn probe() -> [u8; PREFIX + 42] {
    const ASKING: [u8; 6] = [0x02, 0, 0, 0, 0, 0];
    let mut frame = [0; PREFIX + 42];
    let parts: [&[u8]; 8] = [
        &42u32.to_be_bytes(),
        &[0xff; 6],
        &ASKING,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &ASKING,
        &[0; 4],
        &[0; 6],
        &[169, 254, 0, 1],
    ];
    let mut at = 0;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

/// Lines that say nothing about what went wrong.
fn noise(line: &str) -> bool {
    line.is_empty()
        || line.ends_with("to syslog")
        || line.starts_with("Don't run as root")
        || line.starts_with("Template interface")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_become_flags_without_their_protocol() {
        let config = PasstConfig {
            forwards: ["tcp:127.0.0.1/2222:22", "udp:53"]
                .map(|text| text.parse().unwrap())
                .into(),
            ..PasstConfig::default()
        };
        let (socket, _peer) = UnixStream::pair().unwrap();
        let command = command(&config, &socket);
        let arguments: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        assert!(arguments.ends_with(&["--tcp-ports", "127.0.0.1/2222:22", "--udp-ports", "53:53"]));
    }
}
