//! The operator's terminal as the guest's console: raw while the guest has it, as it was
//! before once we are done, and a way out (Ctrl-A x) at all times.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Ctrl-A begins a command to us.
const PREFIX: u8 = 0x01;

/// Standard input in raw mode; put back when dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input raw, if it is a terminal that we are in the foreground of.
    pub fn enter() -> nix::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that went away needs nothing put back.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Finds commands in what is typed: Ctrl-A x ends the machine, Ctrl-A Ctrl-A is one Ctrl-A
/// for the guest, and Ctrl-A before anything else is dropped with it.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    after_prefix: bool,
}

/// What was typed, for the guest, and whether the operator wants out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// Bytes for the guest.
    pub bytes: Vec<u8>,
    /// Ctrl-A x was typed.
    pub quit: bool,
}

impl EscapeFilter {
    /// Takes what was read from the terminal.
    pub fn feed(&mut self, input: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for &byte in input {
            match (std::mem::take(&mut self.after_prefix), byte) {
                (false, PREFIX) => self.after_prefix = true,
                (true, b'x' | b'X') => typed.quit = true,
                (true, PREFIX) | (false, _) => typed.bytes.push(byte),
                (true, _) => {}
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_quits_even_when_split_over_reads() {
        let mut filter = EscapeFilter::default();
        assert_eq!(
            filter.feed(b"ls\r\x01"),
            Typed {
                bytes: b"ls\r".into(),
                quit: false
            }
        );
        assert_eq!(
            filter.feed(b"x"),
            Typed {
                bytes: vec![],
                quit: true
            }
        );
    }

    #[test]
    fn a_doubled_prefix_is_one_byte_and_x_alone_is_x() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"x\x01\x01y\x01qz").bytes, b"x\x01yz");
    }
}
