//! The Intel 82540EM gigabit Ethernet controller, the NIC that every operating system has a
//! driver for ("PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual", here the 8254x SDM).
//!
//! | file | what |
//! | --- | --- |
//! | `registers` | offsets and fields, as the manual has them |
//! | `device` | what is behind the registers |
//! | `interrupts`, `filter`, `statistics`, `eeprom`, `phy`, `plain` | its parts |
//! | `descriptors`, `offload`, `packet` | formats in memory and on the wire |
//! | `transmit`, `receive` | packet processing |
//! | `nic`, `thread` | who does what, and when |
//! | `quiet_page` | what spares an idle guest most exits |
//!
//! # Exits
//! A vCPU only ever touches registers; packets are the business of one I/O thread per NIC.
//! What a stock Linux `e1000` costs in exits to this process:
//!
//! | access | when | exits |
//! | --- | --- | --- |
//! | TDT write | once per packet, or per burst that the stack hands over at once (`xmit_more`); once per 64 KiB with TSO | 1 |
//! | RDT write | once per 16 buffers and poll | 0, coalesced |
//! | ICR read | per interrupt | 1 |
//! | IMC write, and the STATUS read that flushes it | per interrupt | 0 and 1 |
//! | IMS write, and the STATUS read that flushes it | per interrupt | 0 and 1 |
//! | end of interrupt, as the pin is level-triggered and the I/O APIC ours | per interrupt | 1 |
//! | ITR write | when the driver changes its mind | 0, coalesced |
//! | statistics registers, 55 reads | every two seconds | 55, or 0 when idle: see `quiet_page` |
//! | PHY registers by MDIC, and ICS | every two seconds | 5, and an interrupt |
//!
//! So an interrupt costs 4. A ping is one TDT write and one interrupt, its own transmission
//! being reported along with the answer: 5. A small UDP packet out is one TDT write and a
//! small part of an interrupt; see `interrupts` for what keeps that part small.
//!
//! TDT is not a doorbell in the kernel (ioeventfd), which would lose the value that the
//! guest writes, and descriptors do not tell where it ended. Its exit does nothing but store
//! the value and, if the I/O thread sleeps, wake it.
//!
//! Coalesced writes take effect late, but in order and before anything that could tell the
//! difference: any other access comes after them, the I/O thread takes them before it looks
//! for buffers and again before it asserts an interrupt. What that leaves to be said of IMS
//! is said in `interrupts`.
//!
//! # What is left out
//! Wake-up, flow control and the flash are not there (their registers are storage), nor are
//! MSI, power management and the 82542's register aliases. TXD_LOW and SRPD never happen.
//! The link is always 1000 Mb/s, full duplex. Checksums of received IPv6 packets with
//! extension headers are left to software.
//!
//! # Reset
//! A PCI reset brings back everything but the EEPROM's words and the counts of
//! [`Traffic`]. CTRL.RST spares, beyond these, config space and the PHY. Neither waits for
//! packets in flight, but no memory is touched once it is done.

mod descriptors;
mod device;
mod eeprom;
mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod interrupts;
mod nic;
mod offload;
mod packet;
mod phy;
mod plain;
mod quiet_page;
mod receive;
mod registers;
mod state;
mod statistics;
mod thread;
mod transmit;

use std::io;
use std::sync::{Arc, Mutex};

use pci::{
    BarIndex, BarKind, Bdf, Changes, ClassCode, ConfigSpace, ConfigWrite, Function, Ids,
    InterruptPin, Register, Window,
};

use crate::bus::{Deferred, FastPath, FastPathWatcher, PciDevice, Region};
use crate::dma::Dma;
use crate::irq::IrqLine;
use crate::net::{Mac, NetBackend};
use crate::time::Clock;
use nic::{Nic, lock};
use quiet_page::QuietPage;
use registers::offset;
pub use state::{E1000State, Traffic};
use thread::IoThread;

/// What it says it is (8254x SDM §4.1, §5.1).
const IDS: Ids = Ids {
    vendor: 0x8086,
    device: 0x100e,
    revision: 2,
    class: ClassCode {
        base: 2,
        sub: 0,
        interface: 0,
    },
    subsystem_vendor: 0x8086,
    subsystem: 0x001e,
};

/// Registers in memory.
const MEMORY: BarIndex = BarIndex(0);
/// Registers through a window of ports.
const PORTS: BarIndex = BarIndex(1);
const PORTS_SIZE: u64 = 64;

/// What an [`E1000`] is made of.
pub struct E1000Config {
    /// For logs, statistics and its thread.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// The wire.
    pub backend: Box<dyn NetBackend>,
    /// Guest memory.
    pub dma: Dma,
    /// INTA#.
    pub line: IrqLine,
    /// Writes that the kernel holds back.
    pub deferred: Arc<dyn Deferred>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Told when the statistics registers may be read as zeros, and when no longer.
    pub watcher: Arc<dyn FastPathWatcher>,
}

/// An 82540EM.
pub struct E1000 {
    name: String,
    config: Mutex<ConfigSpace>,
    nic: Arc<Nic>,
    quiet_page: Arc<QuietPage>,
    thread: Mutex<Option<IoThread>>,
}

impl E1000 {
    /// Makes one, just powered on. It moves no packet before [`Self::start`].
    pub fn new(config: E1000Config) -> io::Result<Self> {
        let mut space = ConfigSpace::endpoint(IDS);
        let memory = BarKind::Memory32 {
            prefetchable: false,
        };
        space
            .set_bar(MEMORY, memory, u64::from(offset::END))
            .and_then(|()| space.set_bar(PORTS, BarKind::Io, PORTS_SIZE))
            .map_err(io::Error::other)?;
        space.set_interrupt_pin(InterruptPin::IntA);
        Ok(Self {
            name: config.name.clone(),
            config: Mutex::new(space),
            nic: Arc::new(Nic::new(config)?),
            quiet_page: Arc::new(QuietPage::new()?),
            thread: Mutex::new(None),
        })
    }

    /// Starts the I/O thread, when the VM starts or goes on after a pause.
    pub fn start(&self) -> io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            *thread = Some(IoThread::start(Arc::clone(&self.nic), &self.name)?);
        }
        Ok(())
    }

    /// Stops the I/O thread, for a pause or for good. When this returns, nothing moves.
    pub fn stop(&self) {
        let thread = lock(&self.thread).take();
        drop(thread);
    }

    /// What it did so far.
    pub fn traffic(&self) -> Traffic {
        self.nic.registers().traffic
    }

    /// Everything there is to know of it.
    pub fn state(&self) -> E1000State {
        let config = lock(&self.config).state();
        let registers = self.nic.registers().clone();
        let traffic = registers.traffic;
        E1000State {
            config,
            registers,
            traffic,
        }
    }
}

impl Drop for E1000 {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Function for E1000 {
    fn read_config(&self, register: Register) -> u32 {
        let mut config = lock(&self.config);
        config.set_interrupt_status(self.nic.interrupt_pending());
        if self.nic.take_aborted() {
            let status = config.get_u16(STATUS) | RECEIVED_MASTER_ABORT;
            config.put_u16(STATUS, status);
        }
        config.read(register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        let mut config = lock(&self.config);
        let changes = config.write(write);
        if changes.contains(Changes::BUS_MASTER) {
            self.nic.follow_bus_master(config.is_bus_master());
        }
        if changes.contains(Changes::INTERRUPTS) {
            let disabled = config.command().interrupt_disable();
            self.nic.disable_interrupt(disabled);
        }
        changes
    }

    fn windows(&self) -> Vec<Window> {
        lock(&self.config).windows()
    }

    fn reset(&self) {
        let mut config = lock(&self.config);
        config.reset();
        self.nic.reset();
    }
}

/// Offset of the PCI status register, and its Received Master Abort.
const STATUS: u16 = 0x06;
const RECEIVED_MASTER_ABORT: u16 = 1 << 13;

impl PciDevice for E1000 {
    fn name(&self) -> &str {
        &self.name
    }

    fn region(&self, bar: BarIndex) -> Option<Arc<dyn Region>> {
        match bar {
            MEMORY => Some(Arc::new(MemoryRegion(Arc::clone(&self.nic)))),
            PORTS => Some(Arc::new(PortRegion(Arc::clone(&self.nic)))),
            _ => None,
        }
    }

    fn fast_paths(&self, bar: BarIndex) -> Vec<FastPath> {
        if bar != MEMORY {
            return Vec::new();
        }
        let tables = offset::VFTA + 0x200 - offset::MTA;
        let mut paths: Vec<_> = [
            (offset::IMS, 4),
            (offset::IMC, 4),
            (offset::RDT, 4),
            (offset::ITR, 4),
            (offset::EECD, 4),
            (offset::MTA, tables),
        ]
        .map(|(offset, len)| FastPath::Coalesced {
            offset: offset.into(),
            len: len.into(),
        })
        .into();
        if self.nic.registers().quiet {
            paths.push(FastPath::Mapped {
                offset: offset::STATISTICS.into(),
                memory: Arc::clone(&self.quiet_page) as _,
            });
        }
        paths
    }

    fn set_bdf(&self, bdf: Bdf) {
        self.nic.dma.set_bdf(bdf);
    }
}

/// BAR 0: the register space. Registers are dwords and are written as such (§13.1): other
/// writes are ignored, other reads get their part of the dword.
struct MemoryRegion(Arc<Nic>);

impl Region for MemoryRegion {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % 4) as usize;
            let len = rest.len().min(4 - within);
            let dword = self.0.read((at - at % 4) as u32).to_le_bytes();
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&dword[within..within + len]);
            rest = later;
            at = at.wrapping_add(len as u64);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
            return;
        }
        for (n, dword) in data.chunks_exact(4).enumerate() {
            if let Ok(&dword) = dword.try_into() {
                let at = offset.wrapping_add(4 * n as u64) as u32;
                self.0.write(at, u32::from_le_bytes(dword));
            }
        }
    }
}

/// BAR 1: IOADDR selects a register and IODATA is it (§13.1.2).
struct PortRegion(Arc<Nic>);

const IOADDR: u64 = 0;
const IODATA: u64 = 4;

impl Region for PortRegion {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            IOADDR => self.0.registers().selected,
            IODATA if data.len() == 4 => {
                let selected = self.0.registers().selected;
                self.0.read(selected)
            }
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(dword) = data.try_into() else {
            return;
        };
        let value = u32::from_le_bytes(dword);
        match offset {
            IOADDR if value < offset::END => self.0.registers().selected = value & !3,
            IODATA => {
                let selected = self.0.registers().selected;
                self.0.write(selected, value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
