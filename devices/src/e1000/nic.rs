//! What the vCPUs and the I/O thread share, and who may do what.
//!
//! Two locks, taken in this order, neither held while anything waits:
//!
//! - the **engine**: the backend and the state of packet processing. The I/O thread has it
//!   for a batch; a vCPU takes it for what must not happen in the midst of a packet (a
//!   reset, a new ring, an enable that goes away), so that once such a write returns, no
//!   more memory is touched on behalf of what was before. It then waits for one packet.
//! - the **registers**: any register access, and the I/O thread for a moment per packet.
//!   The interrupt wire is driven under this lock, so that its last level is the right one.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::descriptors::Ring;
use super::device::Registers;
use super::receive::{Receiver, threshold_cause};
use super::registers::{Cause, offset};
use super::transmit::{Transmitter, View};
use super::{E1000Config, IDS};
use crate::bus::{Deferred, FastPathWatcher};
use crate::dma::{Dma, DmaError};
use crate::irq::IrqLine;
use crate::net::{Mac, NetBackend, Packet, Sent, offload};
use crate::time::{Clock, Nanos};

/// How long to wait before looking for receive buffers whose tail write may sit in the
/// kernel, at first; it doubles up to a hundred times that.
const BUFFER_WAIT: Nanos = 1_000_000;
/// Frame check sequence.
const FCS: usize = 4;

/// How a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is left to do.
    Idle,
    /// There is more.
    More,
    /// There is more, but no room for it.
    Full,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// Out.
    Out,
    /// Back in.
    Back,
    /// There is no link.
    Nowhere,
}

/// What the I/O thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// The backend.
    pub descriptor: Option<RawFd>,
    /// Whether to wait until it is readable.
    pub read: bool,
    /// Whether to wait until it is writable.
    pub write: bool,
    /// Until when.
    pub deadline: Option<Nanos>,
    /// There is more to do now.
    pub again: bool,
}

/// Packet processing.
pub struct Engine {
    backend: Box<dyn NetBackend>,
    transmitter: Transmitter,
    receiver: Receiver,
    scratch: Vec<u8>,
    /// How long to wait for buffers next time.
    buffer_wait: Nanos,
}

/// A NIC without its PCI side.
pub struct Nic {
    pub(super) dma: Dma,
    engine: Mutex<Engine>,
    /// Those who want the engine and are not the I/O thread.
    holders: AtomicUsize,
    registers: Mutex<Registers>,
    wire: Mutex<Level>,
    line: IrqLine,
    deferred: Arc<dyn Deferred>,
    clock: Arc<dyn Clock>,
    watcher: Arc<dyn FastPathWatcher>,
    /// Wakes the I/O thread.
    pub(super) kick: EventFd,
    master: AtomicBool,
    /// A DMA found nothing at its address; for the PCI status register.
    aborted: AtomicBool,
}

/// The interrupt wire.
#[derive(Clone, Copy, Default)]
struct Level {
    asserted: bool,
    /// Interrupt Disable of the PCI command register.
    disabled: bool,
    /// When the I/O thread wakes by itself: `Some(0)` while it runs.
    armed: Option<Nanos>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nic {
    pub(super) fn new(config: E1000Config) -> std::io::Result<Self> {
        let registers = Registers::new(config.mac, &IDS, config.backend.link());
        let engine = Engine {
            backend: config.backend,
            transmitter: Transmitter::new(),
            receiver: Receiver::new(),
            scratch: Vec::new(),
            buffer_wait: BUFFER_WAIT / 2,
        };
        Ok(Self {
            dma: config.dma,
            engine: Mutex::new(engine),
            holders: AtomicUsize::new(0),
            registers: Mutex::new(registers),
            wire: Mutex::new(Level::default()),
            line: config.line,
            deferred: config.deferred,
            clock: config.clock,
            watcher: config.watcher,
            kick: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            master: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
        })
    }

    pub(super) fn registers(&self) -> MutexGuard<'_, Registers> {
        lock(&self.registers)
    }

    pub(super) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Reads a register.
    pub(super) fn read(&self, at: u32) -> u32 {
        let now = self.now();
        let mut registers = self.registers();
        // What time has brought about has to be seen.
        registers.advance(now);
        let value = registers.read(at);
        self.settle(&mut registers, now);
        let changed = is_statistics(at) && registers.settle_quiet(now);
        drop(registers);
        if changed {
            self.watcher.fast_paths_changed();
        }
        value
    }

    /// Writes a register.
    pub(super) fn write(&self, at: u32, value: u32) {
        let mut engine = interrupts_processing(at).then(|| self.hold());
        let now = self.now();
        let mut registers = self.registers();
        let resets = at == offset::CTRL && super::registers::Control(value).reset();
        if let (true, Some(engine)) = (resets, &mut engine) {
            engine.reset();
        }
        let wake = registers.write(at, value, now);
        self.settle(&mut registers, now);
        drop(registers);
        if wake {
            self.wake();
        }
    }

    /// A PCI reset.
    pub(super) fn reset(&self) {
        let mut engine = self.hold();
        self.set_master(false);
        engine.reset();
        let carrier = engine.backend.link();
        let mut registers = self.registers();
        registers.reset_all(carrier);
        lock(&self.wire).disabled = false;
        self.settle(&mut registers, self.now());
    }

    /// Follows Bus Master Enable. Once it is off, no more memory is touched.
    pub(super) fn follow_bus_master(&self, on: bool) {
        let engine = self.hold();
        self.set_master(on);
        drop(engine);
        self.wake();
    }

    fn set_master(&self, on: bool) {
        self.dma.set_bus_master(on);
        self.master.store(on, Ordering::Release);
    }

    /// Follows Interrupt Disable.
    pub(super) fn disable_interrupt(&self, disabled: bool) {
        let mut registers = self.registers();
        lock(&self.wire).disabled = disabled;
        self.settle(&mut registers, self.now());
    }

    /// An interrupt is pending, whether or not the wire may say so.
    pub(super) fn interrupt_pending(&self) -> bool {
        self.registers().interrupts.asserted()
    }

    /// Whether a DMA was aborted since last asked.
    pub(super) fn take_aborted(&self) -> bool {
        self.aborted.swap(false, Ordering::Relaxed)
    }

    /// Wakes the I/O thread.
    pub(super) fn wake(&self) {
        // A full counter is a thread that is woken already.
        let _ = self.kick.write(1);
    }

    /// Drives the wire, and wakes the I/O thread if it would sleep too long.
    fn settle(&self, registers: &mut Registers, now: Nanos) {
        registers.advance(now);
        let mut wire = lock(&self.wire);
        let level = registers.interrupts.asserted() && !wire.disabled;
        if level != wire.asserted {
            wire.asserted = level;
            self.line.set(level);
        }
        let late = match (registers.deadline(), wire.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if late {
            wire.armed = Some(0);
            self.wake();
        }
    }

    /// Takes the engine from the I/O thread, after the packet it is at.
    fn hold(&self) -> MutexGuard<'_, Engine> {
        self.holders.fetch_add(1, Ordering::AcqRel);
        let engine = lock(&self.engine);
        self.holders.fetch_sub(1, Ordering::AcqRel);
        engine
    }

    /// Somebody waits in [`Self::hold`].
    pub(super) fn is_held(&self) -> bool {
        self.holders.load(Ordering::Acquire) > 0
    }

    /// One turn of the I/O thread: whatever can be done now.
    pub(super) fn turn(&self) -> Interest {
        // Buffers posted and masks written are in the kernel until somebody looks.
        self.deferred.flush();
        lock(&self.wire).armed = Some(0);
        self.settle(&mut self.registers(), self.now());
        while self.is_held() {
            std::thread::yield_now();
        }
        let mut engine = lock(&self.engine);
        let mut interest = engine.turn(self);
        drop(engine);
        // A mask that the guest wrote before the interrupt has to hold it back.
        self.deferred.flush();
        let now = self.now();
        let mut registers = self.registers();
        self.settle(&mut registers, now);
        let both = [
            registers.deadline(),
            interest.deadline.map(|wait| now + wait),
        ];
        interest.deadline = both.into_iter().flatten().min();
        lock(&self.wire).armed = interest.deadline;
        let changed = registers.quiet && registers.settle_quiet(now);
        drop(registers);
        if changed {
            self.watcher.fast_paths_changed();
        }
        interest
    }

    // What the transmitter asks and tells.

    pub(super) fn transmit_view(&self) -> Option<View> {
        let mut registers = self.registers();
        let ready = registers.tctl.enable()
            && registers.tx.available() > 0
            && self.master.load(Ordering::Acquire);
        registers.tx_active = ready;
        let back = registers.phy.loopback() || registers.rctl.loopback() != 0;
        ready.then(|| View {
            ring: registers.tx,
            vlan: registers.control.vlan_mode().then_some(registers.vet),
            pad: registers.tctl.pad(),
            wire: match registers.phy.link() {
                _ if back => Wire::Back,
                true => Wire::Out,
                false => Wire::Nowhere,
            },
        })
    }

    /// There is nothing to send in `ring`; true if that is still so.
    pub(super) fn transmit_idle(&self, ring: &Ring) -> bool {
        let mut registers = self.registers();
        let idle = registers.tx == *ring;
        registers.tx_active = !idle;
        idle
    }

    /// `count` descriptors are done, `reported` of which say so.
    pub(super) fn transmitted(&self, count: u32, reported: u32, delayed: bool) {
        let now = self.now();
        let mut registers = self.registers();
        registers.last_packet = now;
        registers.tx.advance(count);
        let (ring, delayed) = (registers.tx, delayed && reported > 0);
        if reported > 0 {
            let interrupts = &mut registers.interrupts;
            interrupts.transmitted(count, ring.count(), delayed, now);
        }
        if ring.available() == 0 {
            registers.interrupts.queue_empty(delayed);
        }
    }

    /// The ring's memory cannot be reached.
    pub(super) fn transmit_failed(&self, error: DmaError) {
        let mut registers = self.registers();
        registers.tx_active = false;
        if error != DmaError::NotMaster {
            registers.tx.halt();
            self.abort(&format_args!("the transmit ring: {error}"));
        }
    }

    /// A packet or a buffer that makes no sense.
    pub(super) fn malformed(&self, what: &dyn fmt::Display) {
        self.registers().traffic.malformed += 1;
        crate::guest_error!("e1000: {what}");
    }

    // What the receiver asks and tells.

    /// A frame could be received now. If not, a change of that wakes the I/O thread.
    pub(super) fn receive_ready(&self) -> bool {
        let mut registers = self.registers();
        let ready = registers.receives()
            && registers.rx.available() > 0
            && self.master.load(Ordering::Acquire);
        registers.rx_waiting = !ready;
        ready
    }

    /// At least so many buffers are posted. If not, posting some wakes the I/O thread.
    pub(super) fn has_buffers(&self, needed: u32) -> bool {
        let mut registers = self.registers();
        let ready = registers.rx.available() >= needed;
        registers.rx_waiting = !ready;
        ready
    }

    /// A packet of `bytes` is in the guest's memory, in `taken` buffers.
    pub(super) fn received(&self, destination: Mac, bytes: usize, taken: u32) {
        let now = self.now();
        let mut registers = self.registers();
        registers.last_packet = now;
        let stripped = if registers.rctl.strip_crc() { FCS } else { 0 };
        registers.statistics.received(destination, bytes + stripped);
        registers.traffic.received += 1;
        registers.traffic.received_bytes += bytes as u64;
        let threshold = threshold_cause(&registers.rx, registers.rctl, taken);
        registers.rx.advance(taken);
        registers.interrupts.raise(threshold);
        registers.interrupts.received(now);
    }

    /// A packet that no number of buffers would hold.
    pub(super) fn overrun(&self) {
        let mut registers = self.registers();
        registers.statistics.missed();
        registers.interrupts.raise(Cause::RXO);
    }

    /// The ring's memory cannot be reached.
    pub(super) fn receive_failed(&self, error: DmaError) {
        let mut registers = self.registers();
        registers.rx.halt();
        registers.rx_waiting = true;
        self.abort(&format_args!("the receive ring: {error}"));
    }

    fn abort(&self, what: &dyn fmt::Display) {
        self.aborted.store(true, Ordering::Relaxed);
        crate::guest_error!("e1000: {what}");
    }
}

impl Engine {
    fn reset(&mut self) {
        self.transmitter.reset();
        self.receiver.reset();
    }

    /// Receives and sends a batch each. The deadline it gives is a wait, from now.
    fn turn(&mut self, nic: &Nic) -> Interest {
        let Self {
            backend,
            transmitter,
            receiver,
            scratch,
            buffer_wait,
        } = self;
        backend.flush();
        let received = receiver.run(nic, &mut **backend);
        let sent = transmitter.run(nic, |packet, wire| {
            send(nic, packet, wire, &mut **backend, receiver, scratch)
        });
        let now = nic.now();
        nic.registers().phy.set_carrier(backend.link(), now);
        let starved = received == Outcome::Full && nic.is_starved();
        *buffer_wait = match starved {
            true => (*buffer_wait * 2).min(100 * BUFFER_WAIT),
            false => BUFFER_WAIT / 2,
        };
        Interest {
            descriptor: backend.descriptor().map(|fd| fd.as_raw_fd()),
            read: received == Outcome::Idle,
            write: sent == Outcome::Full || backend.has_unsent(),
            deadline: starved.then_some(*buffer_wait),
            again: received == Outcome::More || sent == Outcome::More,
        }
    }
}

impl Nic {
    /// The receiver is on and may lack nothing but buffers.
    fn is_starved(&self) -> bool {
        let registers = self.registers();
        let master = self.master.load(Ordering::Acquire);
        registers.receives() && registers.rx.is_usable() && master
    }
}

fn send(
    nic: &Nic,
    packet: &Packet<'_>,
    wire: Wire,
    backend: &mut dyn NetBackend,
    receiver: &mut Receiver,
    scratch: &mut Vec<u8>,
) -> Sent {
    match wire {
        Wire::Out => return backend.send(packet),
        Wire::Back => offload::finish(packet, scratch, |frame| receiver.loop_back(nic, frame)),
        Wire::Nowhere => {}
    }
    Sent::Done
}

/// In the page of the statistics registers.
fn is_statistics(at: u32) -> bool {
    (offset::STATISTICS..offset::STATISTICS + 0x100).contains(&at)
}

/// Writes that must not fall in the midst of a packet.
fn interrupts_processing(at: u32) -> bool {
    matches!(
        at,
        offset::CTRL
            | offset::RCTL
            | offset::TCTL
            | offset::RDBAL
            | offset::RDBAH
            | offset::RDLEN
            | offset::RDH
            | offset::TDBAL
            | offset::TDBAH
            | offset::TDLEN
            | offset::TDH
    )
}
