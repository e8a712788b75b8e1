//! Single ports: the POST code and delay ports, system control port A, and a console for
//! debugging firmware.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bitfield::bitfield;

use super::ports::{BytePorts, PortRange};
use super::power::PowerControl;
use super::serial::Peer;

/// Port 0x80 shows how far firmware has come, and kernels write it to pass a microsecond;
/// 0xED is where they go when 0x80 is taken (Linux `io_delay=0xed`).
///
/// Reset: zero.
#[derive(Default)]
pub struct PostPort {
    code: AtomicU8,
}

impl PostPort {
    /// The ports it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        [0x80, 0xed]
            .map(|port| PortRange::new(self.clone(), port, 1))
            .into()
    }

    /// Forgets the code.
    pub fn reset(&self) {
        self.code.store(0, Ordering::Relaxed);
    }

    /// The last code written.
    pub fn state(&self) -> u8 {
        self.code.load(Ordering::Relaxed)
    }
}

impl BytePorts for PostPort {
    fn read_port(&self, _: u16) -> u8 {
        self.state()
    }

    fn write_port(&self, _: u16, value: u8) {
        self.code.store(value, Ordering::Relaxed);
    }
}

bitfield! {
    /// System control port A (IBM PS/2; ICH9 §13.7.3, PORT92).
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Port92(u8);
    impl Debug;
    /// Going from 0 to 1 resets.
    initialize, _: 0;
    /// Address line 20 is not forced low. Kept; it never is.
    a20, _: 1;
}

/// Bits that are stored.
const PORT_92_WRITABLE: u8 = 0x03;

/// A20 is open at reset: this machine has no gate, and nothing that boots on it needs one.
const PORT_92_RESET: u8 = 0x02;

/// System control port A: the fast ways to open A20 and to reset.
///
/// Reset: A20 open.
pub struct SystemControlA {
    power: Arc<dyn PowerControl>,
    value: AtomicU8,
}

impl SystemControlA {
    /// The port as after power-on.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        Self {
            power,
            value: AtomicU8::new(PORT_92_RESET),
        }
    }

    /// The port it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        vec![PortRange::new(self.clone(), 0x92, 1)]
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.value.store(PORT_92_RESET, Ordering::Relaxed);
    }

    /// What it holds.
    pub fn state(&self) -> u8 {
        self.value.load(Ordering::Relaxed)
    }
}

impl BytePorts for SystemControlA {
    fn read_port(&self, _: u16) -> u8 {
        self.state()
    }

    fn write_port(&self, _: u16, value: u8) {
        let old = self.value.swap(value & PORT_92_WRITABLE, Ordering::Relaxed);
        if Port92(value).initialize() && !Port92(old).initialize() {
            self.power.reset();
        }
    }
}

/// What the debug console reads as, by which firmware knows that it is there.
const DEBUG_CONSOLE_SIGNATURE: u8 = 0xe9;

/// A console without a UART, as Bochs has at port 0xE9 and OVMF and SeaBIOS look for at
/// 0x402. What its peer does not take is lost. It has no state.
pub struct DebugConsole {
    port: u16,
    peer: Arc<dyn Peer>,
}

impl DebugConsole {
    /// A console at `port`.
    pub fn new(port: u16, peer: Arc<dyn Peer>) -> Self {
        Self { port, peer }
    }

    /// The port it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        vec![PortRange::new(self.clone(), self.port, 1)]
    }
}

impl BytePorts for DebugConsole {
    fn read_port(&self, _: u16) -> u8 {
        DEBUG_CONSOLE_SIGNATURE
    }

    fn write_port(&self, _: u16, value: u8) {
        self.peer.transmit(&[value]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::platform::fakes::FakePower;

    #[test]
    fn the_post_port_remembers() {
        let port = Arc::new(PostPort::default());
        port.write_port(0x80, 0x55);
        assert_eq!((port.read_port(0x80), port.state()), (0x55, 0x55));
        port.reset();
        assert_eq!(port.read_port(0x80), 0);
        assert_eq!(port.ports().len(), 2);
    }

    #[test]
    fn port_0x92_resets_when_bit_0_rises() {
        let power = Arc::new(FakePower::default());
        let port = SystemControlA::new(power.clone());
        assert_eq!(port.read_port(0x92), 0x02);
        port.write_port(0x92, 0xfe);
        assert_eq!((port.read_port(0x92), power.resets()), (0x02, 0));
        port.write_port(0x92, 0x01);
        port.write_port(0x92, 0x03);
        assert_eq!((port.read_port(0x92), power.resets()), (0x03, 1));
        port.reset();
        port.write_port(0x92, 0x01);
        assert_eq!(power.resets(), 2);
    }

    #[test]
    fn the_debug_console_passes_bytes_on() {
        #[derive(Default)]
        struct Log(Mutex<Vec<u8>>);
        impl Peer for Log {
            fn transmit(&self, bytes: &[u8]) -> usize {
                self.0.lock().unwrap().extend(bytes);
                bytes.len()
            }
        }
        let log = Arc::new(Log::default());
        let console = Arc::new(DebugConsole::new(0x402, log.clone()));
        assert_eq!(console.read_port(0x402), 0xe9);
        console.ports()[0].region.write(0, b"hi");
        assert_eq!(*log.0.lock().unwrap(), b"hi");
    }
}
