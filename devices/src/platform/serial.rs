//! The serial port: a National PC16550D as COM1.
//!
//! Not `vm_superio::Serial`: that one pulses its interrupt where a UART holds a level,
//! forgets the received-data interrupt when IIR is read, has no FIFO control (so no trigger
//! level, no timeout, no way to empty a FIFO) and no interrupts but two, and writes every
//! byte to its sink with a system call on the vCPU's thread.
//!
//! The transmitter is as fast as what is behind it: a byte written is sent at once, THRE
//! and TEMT are set, and the transmitter interrupt follows at once, so a driver fills its
//! 16 bytes per interrupt and never waits. When the [`Peer`] takes no more, a byte stays in
//! the holding register, THRE is clear, and the guest waits as for a slow line; nothing is
//! lost and no vCPU blocks. The receiver's timeout interrupt comes at once instead of after
//! four character times. Breaks, parity and framing are not modelled; the carrier is
//! always there. OUT2 does not gate the interrupt, as some guests forget it.
//!
//! Reset (table I): everything but the scratch register and the divisor; characters
//! in flight are lost.

mod registers;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::registers::{
    FifoControl, InterruptEnable, LineControl, LineStatus, ModemControl, ModemStatus, cause, offset,
};
pub use self::writer::Writer;
use super::ports::{BytePorts, FLOATING, PortRange};
use crate::irq::IrqLine;

/// COM1's ports; its interrupt is IRQ 4.
pub const COM1: u16 = 0x3f8;

/// Depth of a FIFO.
const FIFO: usize = 16;

/// What is at the other end of the cable. Called on vCPU threads; it must not block.
pub trait Peer: Send + Sync {
    /// Takes bytes and says how many. If not all, [`Serial::drained`] is owed when there is
    /// room again. Called with the port locked: it must not call it back.
    fn transmit(&self, bytes: &[u8]) -> usize;

    /// The port, having refused bytes of [`Serial::receive`], takes some again. Called with
    /// nothing locked.
    fn receive_ready(&self) {}
}

/// A UART.
pub struct Serial {
    base: u16,
    line: IrqLine,
    peer: Arc<dyn Peer>,
    uart: Mutex<Uart>,
}

/// What a UART is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SerialState {
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// FIFO control register, as last written.
    pub fifo_control: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// Received and not read.
    pub received: Vec<u8>,
    /// Written and not taken by the peer.
    pub holding: Vec<u8>,
    /// The interrupt line.
    pub interrupting: bool,
}

struct Uart {
    ier: InterruptEnable,
    fcr: FifoControl,
    lcr: LineControl,
    mcr: ModemControl,
    msr: ModemStatus,
    overrun: bool,
    scratch: u8,
    divisor: u16,
    received: VecDeque<u8>,
    /// What the peer did not take, up to a FIFO.
    holding: VecDeque<u8>,
    /// The transmitter's interrupt is pending (it is cleared by being identified).
    empty_pending: bool,
    /// The peer was refused bytes.
    refused: bool,
    interrupting: bool,
}

/// CTS, DSR and DCD: a terminal is there.
const CONNECTED: u8 = 0b1011;

impl Serial {
    /// A port at `base` as after power-on.
    pub fn new(base: u16, line: IrqLine, peer: Arc<dyn Peer>) -> Self {
        Self {
            base,
            line,
            peer,
            uart: Mutex::new(Uart::new()),
        }
    }

    /// The ports it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        vec![PortRange::new(self.clone(), self.base, 8)]
    }

    /// Gives the guest bytes; says how many it took, the first ones. When that is not all,
    /// the peer hears [`Peer::receive_ready`] later.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        self.change(|uart| {
            let room = uart.room();
            let taken = bytes.len().min(room);
            uart.received.extend(&bytes[..taken]);
            uart.refused = taken < bytes.len();
            taken
        })
    }

    /// True if [`Serial::receive`] would take a byte.
    pub fn can_receive(&self) -> bool {
        self.lock().room() > 0
    }

    /// The peer has room again for what it did not take.
    pub fn drained(&self) {
        let mut uart = self.lock();
        while !uart.holding.is_empty() {
            let taken = self.peer.transmit(uart.holding.make_contiguous());
            if taken == 0 {
                break;
            }
            let taken = taken.min(uart.holding.len());
            uart.holding.drain(..taken);
            uart.empty_pending = uart.holding.is_empty();
        }
        self.settle(&mut uart);
    }

    /// As after power-on, but for the scratch register and the divisor.
    pub fn reset(&self) {
        let refused = {
            let mut uart = self.lock();
            let refused = uart.refused;
            *uart = Uart {
                scratch: uart.scratch,
                divisor: uart.divisor,
                interrupting: uart.interrupting,
                ..Uart::new()
            };
            self.settle(&mut uart);
            refused
        };
        if refused {
            self.peer.receive_ready();
        }
    }

    /// Its state.
    pub fn state(&self) -> SerialState {
        let uart = self.lock();
        SerialState {
            interrupt_enable: uart.ier.0,
            fifo_control: uart.fcr.0,
            line_control: uart.lcr.0,
            modem_control: uart.mcr.0,
            line_status: uart.line_status().0,
            modem_status: uart.msr.0,
            scratch: uart.scratch,
            divisor: uart.divisor,
            received: uart.received.iter().copied().collect(),
            holding: uart.holding.iter().copied().collect(),
            interrupting: uart.interrupting,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, action: impl FnOnce(&mut Uart) -> T) -> T {
        let mut uart = self.lock();
        let result = action(&mut uart);
        self.settle(&mut uart);
        result
    }

    /// Lets the interrupt line follow; under the lock, so that levels arrive in order.
    fn settle(&self, uart: &mut Uart) {
        let interrupting = uart.cause() != cause::NONE;
        if uart.interrupting != interrupting {
            uart.interrupting = interrupting;
            self.line.set(interrupting);
        }
    }

    fn read_data(&self) -> u8 {
        let (byte, ready) = self.change(|uart| {
            let byte = uart.received.pop_front().unwrap_or(0);
            // Asking for more when the FIFO is empty, not at every byte, keeps the feeder's
            // wake-ups to one per sixteen.
            let ready = uart.received.is_empty() && uart.room() > 0;
            (byte, ready && std::mem::take(&mut uart.refused))
        });
        if ready {
            self.peer.receive_ready();
        }
        byte
    }

    fn write_data(&self, byte: u8) {
        self.change(|uart| {
            uart.empty_pending = false;
            if uart.mcr.loopback() {
                uart.loop_back(byte);
            } else if !uart.holding.is_empty() || self.peer.transmit(&[byte]) == 0 {
                uart.hold(byte);
            }
            uart.empty_pending = uart.holding.is_empty();
        });
    }

    fn write_fifo_control(&self, value: u8) {
        let ready = self.change(|uart| {
            uart.write_fifo_control(FifoControl(value));
            uart.room() > 0 && std::mem::take(&mut uart.refused)
        });
        if ready {
            self.peer.receive_ready();
        }
    }

    fn write_modem_control(&self, value: u8) {
        let ready = self.change(|uart| {
            uart.mcr = ModemControl(value & 0x1f);
            uart.follow_modem_lines();
            uart.room() > 0 && std::mem::take(&mut uart.refused)
        });
        if ready {
            self.peer.receive_ready();
        }
    }
}

impl Uart {
    fn new() -> Self {
        let mut msr = ModemStatus(0);
        msr.set_lines(CONNECTED);
        Self {
            ier: InterruptEnable(0),
            fcr: FifoControl(0),
            lcr: LineControl(0),
            mcr: ModemControl(0),
            msr,
            overrun: false,
            scratch: 0,
            divisor: 12, // 9600 baud, as firmware leaves it
            received: VecDeque::with_capacity(FIFO),
            holding: VecDeque::with_capacity(FIFO),
            empty_pending: false,
            refused: false,
            interrupting: false,
        }
    }

    fn depth(&self) -> usize {
        if self.fcr.enable() { FIFO } else { 1 }
    }

    /// How many characters can arrive. In loopback the line is disconnected.
    fn room(&self) -> usize {
        if self.mcr.loopback() {
            return 0;
        }
        self.depth().saturating_sub(self.received.len())
    }

    fn line_status(&self) -> LineStatus {
        let mut lsr = LineStatus(0);
        lsr.set_data_ready(!self.received.is_empty());
        lsr.set_overrun(self.overrun);
        lsr.set_transmitter_empty(self.holding.is_empty());
        lsr.set_transmitter_idle(self.holding.is_empty());
        lsr
    }

    /// The pending interrupt of the highest priority (§8.5, table IV).
    fn cause(&self) -> u8 {
        let ier = self.ier;
        if ier.line_status() && self.overrun {
            cause::LINE_STATUS
        } else if ier.received() && !self.received.is_empty() {
            if self.fcr.enable() && self.received.len() < self.fcr.trigger_level() {
                cause::TIMEOUT
            } else {
                cause::RECEIVED
            }
        } else if ier.transmitter_empty() && self.empty_pending {
            cause::TRANSMITTER_EMPTY
        } else if ier.modem_status() && self.msr.changes() != 0 {
            cause::MODEM_STATUS
        } else {
            cause::NONE
        }
    }

    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == cause::TRANSMITTER_EMPTY {
            self.empty_pending = false;
        }
        let fifos = if self.fcr.enable() { cause::FIFOS } else { 0 };
        cause | fifos
    }

    fn hold(&mut self, byte: u8) {
        // A guest that writes without looking at THRE overwrites, as on hardware.
        if self.holding.len() >= self.depth() {
            self.holding.pop_back();
        }
        self.holding.push_back(byte);
    }

    fn loop_back(&mut self, byte: u8) {
        if self.received.len() >= self.depth() {
            self.overrun = true;
        } else {
            self.received.push_back(byte);
        }
    }

    /// Enabling the transmitter's interrupt while it is empty asks for one, which is
    /// how drivers start to send.
    fn enable_interrupts(&mut self, value: u8) {
        let before = self.ier;
        self.ier = InterruptEnable(value & 0x0f);
        if self.ier.transmitter_empty() && !before.transmitter_empty() {
            self.empty_pending = self.holding.is_empty();
        }
    }

    fn write_fifo_control(&mut self, fcr: FifoControl) {
        let switched = fcr.enable() != self.fcr.enable();
        if switched || fcr.enable() && fcr.reset_receiver() {
            self.received.clear();
        }
        if switched || fcr.enable() && fcr.reset_transmitter() {
            self.empty_pending |= !self.holding.is_empty();
            self.holding.clear();
        }
        // The other bits count only with FIFOs on (§8.4).
        self.fcr = if fcr.enable() {
            FifoControl(fcr.0 & 0xc1)
        } else {
            FifoControl(0)
        };
    }

    /// In loopback CTS, DSR, RI and DCD are RTS, DTR, OUT1 and OUT2 (§8.7).
    fn follow_modem_lines(&mut self) {
        let mut now = ModemStatus(0);
        if self.mcr.loopback() {
            now.set_cts(self.mcr.rts());
            now.set_dsr(self.mcr.dtr());
            now.set_ri(self.mcr.out1());
            now.set_dcd(self.mcr.out2());
        } else {
            now.set_lines(CONNECTED);
        }
        let mut changed = now.lines() ^ self.msr.lines();
        if now.ri() {
            // RI is noted when it goes off, not when it comes on.
            changed &= !0b0100;
        }
        now.set_changes(self.msr.changes() | changed);
        self.msr = now;
    }

    fn read_modem_status(&mut self) -> u8 {
        let msr = self.msr.0;
        self.msr.set_changes(0);
        msr
    }
}

impl BytePorts for Serial {
    fn read_port(&self, port: u16) -> u8 {
        match port.wrapping_sub(self.base) {
            offset::DATA if !self.lock().lcr.divisor_latch() => self.read_data(),
            offset::DATA => self.lock().divisor as u8,
            offset::IER => {
                let uart = self.lock();
                if uart.lcr.divisor_latch() {
                    (uart.divisor >> 8) as u8
                } else {
                    uart.ier.0
                }
            }
            offset::IIR_FCR => self.change(Uart::identify),
            offset::LCR => self.lock().lcr.0,
            offset::MCR => self.lock().mcr.0,
            offset::LSR => self.change(|uart| {
                let status = uart.line_status();
                uart.overrun = false;
                status.0
            }),
            offset::MSR => self.change(Uart::read_modem_status),
            offset::SCR => self.lock().scratch,
            _ => FLOATING,
        }
    }

    fn write_port(&self, port: u16, value: u8) {
        match port.wrapping_sub(self.base) {
            offset::DATA if !self.lock().lcr.divisor_latch() => self.write_data(value),
            offset::DATA => {
                let mut uart = self.lock();
                uart.divisor = uart.divisor & 0xff00 | u16::from(value);
            }
            offset::IER => self.change(|uart| {
                if uart.lcr.divisor_latch() {
                    uart.divisor = uart.divisor & 0x00ff | u16::from(value) << 8;
                } else {
                    uart.enable_interrupts(value);
                }
            }),
            offset::IIR_FCR => self.write_fifo_control(value),
            offset::LCR => self.lock().lcr = LineControl(value),
            offset::MCR => self.write_modem_control(value),
            offset::SCR => self.lock().scratch = value,
            // LSR and MSR are for reading; factory tests write them.
            _ => {}
        }
    }
}
