//! What lies behind the registers, and what reading and writing them does.

use pci::Ids;

use super::descriptors::Ring;
use super::eeprom::Eeprom;
use super::filter::{ADDRESSES, Filter, TABLE};
use super::interrupts::Interrupts;
use super::phy::Phy;
use super::plain::Plain;
use super::quiet_page::QUIET;
use super::registers::{
    Cause, Control, DeviceStatus, EepromControl, EepromRead, MdiControl, ReceiveChecksum,
    ReceiveControl, TransmitControl, offset,
};
use super::state::Traffic;
use super::statistics::{self, Statistics};
use crate::net::Mac;
use crate::time::Nanos;

/// Everything a register access can touch. Guarded by one lock, never held for long.
#[derive(Clone, serde::Serialize)]
pub struct Registers {
    pub(super) control: Control,
    pub(super) rctl: ReceiveControl,
    pub(super) tctl: TransmitControl,
    pub(super) rxcsum: ReceiveChecksum,
    /// VLAN Ether Type.
    pub(super) vet: u16,
    mdic: MdiControl,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    /// The most buffers the guest ever had posted in this ring.
    rx_most: u32,
    pub(super) filter: Filter,
    pub(super) statistics: Statistics,
    pub(super) interrupts: Interrupts,
    pub(super) eeprom: Eeprom,
    pub(super) phy: Phy,
    plain: Plain,
    /// IOADDR.
    pub(super) selected: u32,
    /// The link as software was last told.
    link: bool,
    #[serde(skip)]
    pub(super) traffic: Traffic,
    /// The I/O thread looks at the transmit ring again before it sleeps.
    #[serde(skip)]
    pub(super) tx_active: bool,
    /// When a packet last came or went.
    #[serde(skip)]
    pub(super) last_packet: Nanos,
    /// The guest reads zeros in place of the statistics registers.
    #[serde(skip)]
    pub(super) quiet: bool,
    /// The I/O thread waits for receive buffers, or for the receiver to be enabled.
    #[serde(skip)]
    pub(super) rx_waiting: bool,
}

/// FD, SLU and 1000 Mb/s (§13.4.1), as the EEPROM has them.
const CONTROL: u32 = 1 << 0 | 1 << 6 | 2 << 8;
/// Bits of CTRL that can be written: all but RST, which does not stay, and reserved ones.
const CONTROL_MASK: u32 = 0xdbfc_1be9;
/// 802.1Q (§13.4.7).
const VET: u16 = 0x8100;
/// The internal PHY's address.
const PHY: u8 = 1;

impl Registers {
    /// As after power-on.
    pub fn new(mac: Mac, ids: &Ids, carrier: bool) -> Self {
        Self {
            control: Control(CONTROL),
            rctl: ReceiveControl(0),
            tctl: TransmitControl(0),
            rxcsum: ReceiveChecksum(0),
            vet: VET,
            mdic: MdiControl(0),
            rx: Ring::default(),
            tx: Ring::default(),
            rx_most: 0,
            filter: Filter::new(mac),
            statistics: Statistics::default(),
            interrupts: Interrupts::default(),
            eeprom: Eeprom::new(mac, ids),
            phy: Phy::new(carrier),
            plain: Plain::default(),
            selected: 0,
            link: carrier,
            traffic: Traffic::default(),
            tx_active: false,
            last_packet: 0,
            quiet: false,
            rx_waiting: false,
        }
    }

    /// CTRL.RST, and the MAC's part of any reset. EEPROM words, the PHY and what the I/O
    /// thread is up to stay as they are.
    pub fn reset_mac(&mut self) {
        self.eeprom.reset();
        self.interrupts.reset();
        self.control = Control(CONTROL);
        self.rctl = ReceiveControl(0);
        self.tctl = TransmitControl(0);
        self.rxcsum = ReceiveChecksum(0);
        self.vet = VET;
        self.mdic = MdiControl(0);
        self.rx = Ring::default();
        self.tx = Ring::default();
        self.rx_most = 0;
        self.filter = Filter::new(self.eeprom.mac());
        self.statistics = Statistics::default();
        self.plain = Plain::default();
        self.selected = 0;
    }

    /// A PCI reset: the MAC's, and the PHY's with its link up at once.
    pub fn reset_all(&mut self, carrier: bool) {
        self.reset_mac();
        self.phy = Phy::new(carrier);
        self.link = self.phy.link();
    }

    /// Lets time pass: negotiation ends, timers expire, the interrupt wire may rise.
    pub fn advance(&mut self, now: Nanos) {
        self.phy.advance(now);
        if self.phy.link() != self.link {
            self.link = !self.link;
            self.interrupts.raise(Cause::LSC);
        }
        if self.interrupts.advance(now) {
            self.traffic.interrupts += 1;
        }
    }

    /// Whether the statistics registers can be, or can no longer be, read as zeros; true if
    /// that changed.
    pub fn settle_quiet(&mut self, now: Nanos) -> bool {
        let since = now.saturating_sub(self.last_packet);
        let quiet = (self.quiet || since >= QUIET) && self.statistics.is_clear();
        std::mem::replace(&mut self.quiet, quiet) != quiet
    }

    /// When [`Self::advance`] may have something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        let both = [self.interrupts.deadline(), self.phy.deadline()];
        both.into_iter().flatten().min()
    }

    /// Packets can be received now, buffers permitting.
    pub fn receives(&self) -> bool {
        self.rctl.enable() && self.phy.link()
    }

    /// Reads the dword at `at`.
    pub fn read(&mut self, at: u32) -> u32 {
        match at {
            offset::CTRL => self.control.0,
            offset::STATUS => self.status().0,
            offset::EECD => self.eeprom.control().0,
            offset::EERD => self.eeprom.read_register().0,
            offset::MDIC => self.mdic.0,
            offset::VET => u32::from(self.vet),
            offset::ICR => self.interrupts.read_causes().bits(),
            offset::ITR => u32::from(self.interrupts.throttle()),
            offset::IMS => self.interrupts.mask().bits(),
            offset::RCTL => self.rctl.0,
            offset::TCTL => self.tctl.0,
            offset::RDBAL => self.rx.base() as u32,
            offset::RDBAH => (self.rx.base() >> 32) as u32,
            offset::RDLEN => self.rx.length(),
            offset::RDH => self.rx.head(),
            offset::RDT => self.rx.tail(),
            offset::RDTR => u32::from(self.interrupts.receive_delay()),
            offset::RADV => u32::from(self.interrupts.receive_limit()),
            offset::TDBAL => self.tx.base() as u32,
            offset::TDBAH => (self.tx.base() >> 32) as u32,
            offset::TDLEN => self.tx.length(),
            offset::TDH => self.tx.head(),
            offset::TDT => self.tx.tail(),
            offset::TIDV => u32::from(self.interrupts.transmit_delay()),
            offset::TADV => u32::from(self.interrupts.transmit_limit()),
            offset::RXCSUM => self.rxcsum.0,
            // Wakeup Packet Length: nothing ever woke it.
            offset::WUPL => 0,
            _ => self.read_table(at),
        }
    }

    fn read_table(&mut self, at: u32) -> u32 {
        if let Some(index) = dword_of(at, offset::STATISTICS, statistics::COUNT) {
            self.statistics.read(index)
        } else if let Some(index) = dword_of(at, offset::RA, 2 * ADDRESSES) {
            self.filter.address(index)
        } else if let Some(index) = dword_of(at, offset::MTA, TABLE) {
            self.filter.multicast()[index]
        } else if let Some(index) = dword_of(at, offset::VFTA, TABLE) {
            self.filter.vlan()[index]
        } else {
            self.plain.read(at)
        }
    }

    /// Writes the dword at `at`; true if the I/O thread has to look.
    pub fn write(&mut self, at: u32, value: u32, now: Nanos) -> bool {
        match at {
            offset::TDT => return self.ring_doorbell(value, now),
            offset::RDT => return self.post_buffers(value, now),
            offset::IMC => self.interrupts.mask_off(causes(value)),
            offset::IMS => self.interrupts.unmask(causes(value)),
            offset::ICS => self.interrupts.raise(causes(value)),
            offset::ICR => self.interrupts.clear(causes(value)),
            offset::ITR => self.interrupts.set_throttle(value, now),
            offset::RDTR => self.interrupts.set_receive_delay(value),
            offset::RADV => self.interrupts.set_receive_limit(value),
            offset::TIDV => self.interrupts.set_transmit_delay(value),
            offset::TADV => self.interrupts.set_transmit_limit(value),
            offset::CTRL => return self.write_control(Control(value), now),
            offset::EECD => self.eeprom.set_control(EepromControl(value)),
            offset::EERD => self.eeprom.write_register(EepromRead(value)),
            offset::MDIC => self.write_mdic(MdiControl(value), now),
            offset::VET => self.vet = value as u16,
            offset::RXCSUM => self.rxcsum = ReceiveChecksum(value & 0x7ff),
            offset::WUS => self.plain.write(at, self.plain.read(at) & !value),
            _ => return self.write_setup(at, value),
        }
        false
    }

    /// Registers whose change the I/O thread has to look at.
    fn write_setup(&mut self, at: u32, value: u32) -> bool {
        match at {
            offset::RCTL => self.rctl = ReceiveControl(value & 0x06df_b3fe),
            offset::TCTL => self.tctl = TransmitControl(value & 0x037f_fffa),
            offset::RDBAL => self.rx.set_base(value, false),
            offset::RDBAH => self.rx.set_base(value, true),
            offset::RDLEN => self.rx.set_length(value),
            offset::RDH => self.rx.set_head(value),
            offset::TDBAL => self.tx.set_base(value, false),
            offset::TDBAH => self.tx.set_base(value, true),
            offset::TDLEN => self.tx.set_length(value),
            offset::TDH => self.tx.set_head(value),
            _ => {
                self.write_table(at, value);
                return false;
            }
        }
        if at == offset::RDLEN || at == offset::RDH {
            self.rx_most = 0;
        }
        true
    }

    fn write_table(&mut self, at: u32, value: u32) {
        if let Some(index) = dword_of(at, offset::RA, 2 * ADDRESSES) {
            self.filter.set_address(index, value);
        } else if let Some(index) = dword_of(at, offset::MTA, TABLE) {
            self.filter.multicast()[index] = value;
        } else if let Some(index) = dword_of(at, offset::VFTA, TABLE) {
            self.filter.vlan()[index] = value;
        } else {
            self.plain.write(at, value);
        }
    }

    fn status(&self) -> DeviceStatus {
        let mut status = DeviceStatus(0);
        status.set_full_duplex(true);
        status.set_link_up(self.phy.link());
        status.set_speed(2);
        status.set_detected_speed(2);
        status
    }

    fn write_control(&mut self, value: Control, now: Nanos) -> bool {
        if value.phy_reset() && !self.control.phy_reset() {
            self.phy.reset(now);
        }
        if value.reset() {
            self.reset_mac();
        } else {
            self.control = Control(value.0 & CONTROL_MASK);
        }
        true
    }

    fn write_mdic(&mut self, value: MdiControl, now: Nanos) {
        self.mdic = value;
        let (phy, register) = (value.phy(), value.register());
        let known = phy == PHY && matches!(value.operation(), 1 | 2);
        if known && value.operation() == 1 {
            self.phy.write(register, value.data(), now);
        } else if known {
            self.mdic.set_data(self.phy.read(register));
        }
        self.mdic.set_error(!known);
        self.mdic.set_ready(true);
        if value.interrupt() {
            self.interrupts.raise(Cause::MDAC);
        }
    }

    fn ring_doorbell(&mut self, value: u32, now: Nanos) -> bool {
        self.tx.set_tail(value);
        self.interrupts.doorbell(now);
        self.traffic.doorbells += 1;
        let wake = !self.tx_active && self.tctl.enable() && self.tx.available() > 0;
        self.tx_active |= wake;
        self.traffic.wakeups += u64::from(wake);
        wake
    }

    fn post_buffers(&mut self, value: u32, now: Nanos) -> bool {
        self.rx.set_tail(value);
        let available = self.rx.available();
        if available > self.rx_most {
            self.rx_most = available;
        } else if available == self.rx_most && available > 0 {
            // As many as there ever were: whatever was filled before is back.
            self.interrupts.served(now);
        }
        std::mem::take(&mut self.rx_waiting)
    }
}

fn causes(value: u32) -> Cause {
    Cause::from_bits_truncate(value)
}

/// Which of `count` dwords from `start` is at `at`.
fn dword_of(at: u32, start: u32, count: usize) -> Option<usize> {
    let index = (at.checked_sub(start)? / 4) as usize;
    (index < count).then_some(index)
}
