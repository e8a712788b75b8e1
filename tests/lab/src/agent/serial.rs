//! A serial line that leads back to where it came from: each byte that goes out must come in.

use crate::error::{Context, Result, fail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{BaudRate, SetArg, cfmakeraw, cfsetspeed, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A byte that has not come back by then never will.
const PATIENCE_MS: u16 = 10_000;

/// Sends `count` bytes, the next one when the last has come back. The driver sleeps in between, so each takes an
/// interrupt.
pub fn echo(device: &Path, count: u32) -> Result<u64> {
    let mut line = File::options()
        .read(true)
        .write(true)
        // Whether or not somebody is at the other end.
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(device)
        .path(device)?;
    let mut settings = tcgetattr(&line).context("tcgetattr")?;
    cfmakeraw(&mut settings);
    cfsetspeed(&mut settings, BaudRate::B115200).context("cfsetspeed")?;
    tcsetattr(&line, SetArg::TCSAFLUSH, &settings).context("tcsetattr")?;
    for number in 0..count {
        let sent = [number as u8];
        line.write_all(&sent)
            .context(format!("writing byte {number}"))?;
        let mut came = [0];
        wait(&line, number)?;
        line.read_exact(&mut came)
            .context(format!("reading byte {number}"))?;
        if came != sent {
            return fail(format!("byte {number} was {sent:?} and came back {came:?}"));
        }
    }
    Ok(count.into())
}

fn wait(line: &File, number: u32) -> Result<()> {
    let mut waiting = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut waiting, PollTimeout::from(PATIENCE_MS)).context("poll")?;
    match ready {
        0 => fail(format!("byte {number} did not come back")),
        _ => Ok(()),
    }
}
