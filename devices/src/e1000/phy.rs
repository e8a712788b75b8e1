//! The integrated Marvell 88E1011 PHY, seen through MDIC (IEEE 802.3 §22.2.4 and §40.5;
//! 8254x SDM §8 and §13.4.6). The link partner is a perfect gigabit one.
//!
//! **Reset.** Power-on, a PCI reset, CTRL.PHY_RST and the control register's own reset bit
//! give every register its first value and start auto-negotiation. CTRL.RST does not touch
//! the PHY.

use bitfield::bitfield;

use crate::time::Nanos;

/// Registers (IEEE 802.3 §22.2.4, Table 22-6; 88E1011 data sheet from 16 on).
mod register {
    pub const CONTROL: u8 = 0;
    pub const STATUS: u8 = 1;
    pub const ID_1: u8 = 2;
    pub const ID_2: u8 = 3;
    pub const ADVERTISEMENT: u8 = 4;
    pub const PARTNER: u8 = 5;
    pub const EXPANSION: u8 = 6;
    pub const NEXT_PAGE: u8 = 7;
    pub const GIGABIT_CONTROL: u8 = 9;
    pub const GIGABIT_STATUS: u8 = 10;
    pub const EXTENDED_STATUS: u8 = 15;
    pub const SPECIFIC_CONTROL: u8 = 16;
    pub const SPECIFIC_STATUS: u8 = 17;
    pub const INTERRUPT_ENABLE: u8 = 18;
    pub const INTERRUPT_STATUS: u8 = 19;
    pub const EXTENDED_CONTROL: u8 = 20;
}

bitfield! {
    /// Control (§22.2.4.1).
    #[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
    struct PhyControl(u16);
    impl Debug;
    restart, set_restart: 9;
    isolate, _: 10;
    power_down, _: 11;
    negotiate, _: 12;
    loopback, _: 14;
    reset, set_reset: 15;
}

/// PHY identifier: Marvell 88E1011, revision 0. Drivers know the 82540EM's PHY by it.
const ID: u32 = 0x0141_0c20;
/// Auto-negotiation, full duplex, 1000 Mb/s.
const CONTROL: u16 = 1 << 12 | 1 << 8 | 1 << 6;
/// 10 and 100 Mb/s in both duplexes, extended status, preamble suppression, able to
/// negotiate, extended registers.
const STATUS: u16 = 0x7949;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_NEGOTIATED: u16 = 1 << 5;
/// All of 10 and 100 Mb/s, symmetric pause, IEEE 802.3.
const ADVERTISEMENT: u16 = 0x0de1;
/// The partner offers the same and acknowledges.
const PARTNER: u16 = 0x4de1;
/// The partner negotiates, and its page came.
const EXPANSION: u16 = 0x0003;
const NEXT_PAGE: u16 = 0x2001;
/// 1000BASE-T full and half duplex.
const GIGABIT_CONTROL: u16 = 0x0300;
/// The partner has 1000BASE-T full duplex, and both receivers are fine.
const GIGABIT_STATUS: u16 = 0x3800;
/// 1000BASE-T full and half duplex.
const EXTENDED_STATUS: u16 = 0x3000;
const SPECIFIC_CONTROL: u16 = 0x0068;
/// 1000 Mb/s, full duplex, resolved.
const SPECIFIC_STATUS: u16 = 0x8000 | 0x2000 | 0x0800;
const SPECIFIC_STATUS_LINK: u16 = 0x0400;
/// Speed, duplex and link status changed, negotiation complete.
const INTERRUPT_LINK: u16 = 0x6c00;
const EXTENDED_CONTROL: u16 = 0x0d60;

/// How long negotiation takes. A real pair needs seconds; no driver needs it to.
const NEGOTIATION: Nanos = 20_000_000;

/// The PHY.
#[derive(Clone, serde::Serialize)]
pub struct Phy {
    control: PhyControl,
    advertisement: u16,
    next_page: u16,
    gigabit_control: u16,
    specific_control: u16,
    interrupt_enable: u16,
    interrupt_status: u16,
    extended_control: u16,
    /// The wire has someone at its other end.
    carrier: bool,
    /// When negotiation ends, while it goes on.
    negotiating: Option<Nanos>,
    /// Link Status latches low until read (§22.2.4.2.13).
    link_was_down: bool,
}

impl Phy {
    /// A PHY just reset, whose link is already up if there is a `carrier`: firmware has had
    /// its time with it.
    pub fn new(carrier: bool) -> Self {
        Self {
            control: PhyControl(CONTROL),
            advertisement: ADVERTISEMENT,
            next_page: NEXT_PAGE,
            gigabit_control: GIGABIT_CONTROL,
            specific_control: SPECIFIC_CONTROL,
            interrupt_enable: 0,
            interrupt_status: 0,
            extended_control: EXTENDED_CONTROL,
            carrier,
            negotiating: None,
            link_was_down: !carrier,
        }
    }

    /// Resets it and negotiates.
    pub fn reset(&mut self, now: Nanos) {
        *self = Self::new(self.carrier);
        self.negotiate(now);
    }

    /// The link is up.
    pub fn link(&self) -> bool {
        self.carrier
            && self.negotiating.is_none()
            && !self.control.power_down()
            && !self.control.isolate()
    }

    /// What is sent comes back (§22.2.4.1.2).
    pub fn loopback(&self) -> bool {
        self.control.loopback()
    }

    /// When [`Self::advance`] has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        self.negotiating
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Nanos) {
        if self.negotiating.is_some_and(|end| now >= end) {
            self.negotiating = None;
            self.interrupt_status |= INTERRUPT_LINK;
        }
    }

    /// Somebody plugged in or pulled the cable.
    pub fn set_carrier(&mut self, carrier: bool, now: Nanos) {
        if carrier == self.carrier {
            return;
        }
        self.carrier = carrier;
        self.interrupt_status |= INTERRUPT_LINK;
        if carrier {
            self.negotiate(now);
        } else {
            self.link_was_down = true;
        }
    }

    fn negotiate(&mut self, now: Nanos) {
        self.link_was_down = true;
        self.negotiating = Some(now.saturating_add(NEGOTIATION));
    }

    /// Reads a register. Those that are not there read as zero.
    pub fn read(&mut self, number: u8) -> u16 {
        match number {
            register::CONTROL => self.control.0,
            register::STATUS => {
                let link = self.link() && !std::mem::take(&mut self.link_was_down);
                STATUS
                    | if link { STATUS_LINK } else { 0 }
                    | if self.negotiated() {
                        STATUS_NEGOTIATED
                    } else {
                        0
                    }
            }
            register::ID_1 => (ID >> 16) as u16,
            register::ID_2 => ID as u16,
            register::ADVERTISEMENT => self.advertisement,
            register::PARTNER if self.negotiated() => PARTNER,
            register::EXPANSION if self.negotiated() => EXPANSION,
            register::NEXT_PAGE => self.next_page,
            register::GIGABIT_CONTROL => self.gigabit_control,
            register::GIGABIT_STATUS if self.negotiated() => GIGABIT_STATUS,
            register::EXTENDED_STATUS => EXTENDED_STATUS,
            register::SPECIFIC_CONTROL => self.specific_control,
            register::SPECIFIC_STATUS if self.link() => SPECIFIC_STATUS | SPECIFIC_STATUS_LINK,
            register::SPECIFIC_STATUS => SPECIFIC_STATUS & !0x0800,
            register::INTERRUPT_ENABLE => self.interrupt_enable,
            register::INTERRUPT_STATUS => std::mem::take(&mut self.interrupt_status),
            register::EXTENDED_CONTROL => self.extended_control,
            _ => 0,
        }
    }

    /// Writes a register. Those that cannot be written ignore it.
    pub fn write(&mut self, number: u8, value: u16, now: Nanos) {
        match number {
            register::CONTROL => self.write_control(PhyControl(value), now),
            register::ADVERTISEMENT => self.advertisement = value,
            register::NEXT_PAGE => self.next_page = value,
            register::GIGABIT_CONTROL => self.gigabit_control = value,
            register::SPECIFIC_CONTROL => self.specific_control = value,
            register::INTERRUPT_ENABLE => self.interrupt_enable = value,
            register::EXTENDED_CONTROL => self.extended_control = value,
            _ => {}
        }
    }

    fn write_control(&mut self, mut value: PhyControl, now: Nanos) {
        if value.reset() {
            return self.reset(now);
        }
        let restart = value.restart() && value.negotiate();
        let woken = self.control.power_down() && !value.power_down();
        value.set_restart(false);
        self.control = value;
        if !self.link() {
            self.link_was_down = true;
        }
        if restart || woken {
            self.negotiate(now);
        }
    }

    fn negotiated(&self) -> bool {
        self.link() && self.control.negotiate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_one_that_drivers_expect() {
        let mut phy = Phy::new(true);
        assert_eq!((phy.read(2), phy.read(3)), (0x0141, 0x0c20));
        assert_eq!(phy.read(1), 0x796d);
        assert_eq!(phy.read(10), 0x3800);
        // Resolved at 1000 Mb/s, full duplex, link.
        assert_eq!(phy.read(17), 0xac00);
        assert_eq!(phy.read(31), 0);
    }

    #[test]
    fn negotiation_takes_its_time_and_link_latches_low() {
        let mut phy = Phy::new(true);
        phy.write(0, CONTROL | 1 << 9, 100);
        assert!(!phy.link());
        assert_eq!(phy.read(0), CONTROL);
        assert_eq!(phy.read(1) & (STATUS_LINK | STATUS_NEGOTIATED), 0);
        phy.write(0, CONTROL | 1 << 9, 200);
        phy.advance(100 + NEGOTIATION);
        assert!(!phy.link());
        phy.advance(200 + NEGOTIATION);
        assert!(phy.link() && phy.deadline().is_none());
        // The first read tells that it was down in between.
        assert_eq!(phy.read(1) & STATUS_LINK, 0);
        assert_ne!(phy.read(1) & STATUS_LINK, 0);
        assert_eq!(phy.read(19), INTERRUPT_LINK);
        assert_eq!(phy.read(19), 0);
    }

    #[test]
    fn reset_restores_what_was_written() {
        let mut phy = Phy::new(true);
        phy.write(4, 0x1234, 0);
        phy.write(0, 1 << 14, 0);
        assert!(phy.loopback());
        phy.write(0, 1 << 15, 0);
        assert!(!phy.loopback());
        assert_eq!((phy.read(0), phy.read(4)), (CONTROL, ADVERTISEMENT));
    }

    #[test]
    fn a_pulled_cable_is_noticed() {
        let mut phy = Phy::new(true);
        phy.set_carrier(false, 0);
        assert!(!phy.link());
        phy.set_carrier(true, 5);
        assert_eq!(phy.deadline(), Some(5 + NEGOTIATION));
    }
}
