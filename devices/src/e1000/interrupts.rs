//! Interrupt causes, masks and the timers that hold an interrupt back (8254x SDM §3.2.7,
//! §3.4.3, §13.4.17 to §13.4.21). Time is a value: nothing here sleeps.
//!
//! A cause is in ICR from the moment it happens. What timers delay is the wire:
//!
//! - **ITR** keeps at least so much time between one assertion and the next.
//! - **RDTR/RADV** delay the wire for received packets, as programmed.
//! - **TIDV/TADV** delay it for transmit write-backs whose descriptor says so (IDE), and
//!   here a virtual machine differs from the board: an interrupt costs the guest four exits,
//!   a hundred times what it costs a real CPU, and it only returns buffers. So while the
//!   guest keeps sending, the delay stretches to twice the usual distance between its
//!   doorbells, at most [`TX_HOLD`] (in all, [`TX_HOLD_ALL`]), or until a quarter of the
//!   ring waits to be returned. Any other interrupt, and any read of ICR, brings the news
//!   earlier. A sender that waits for the news is told ever sooner (see
//!   [`Interrupts::doorbell`]). A descriptor without IDE is never delayed.
//! - A receive cause whose packets the guest has demonstrably taken (see
//!   [`Interrupts::served`]) asserts the wire only [`STALE_HOLD`] later.
//!
//! # Masks that wait in the kernel
//! Writes to IMC and IMS are coalesced: this unit learns of them late, though in order, and
//! before any other access of the guest's. A late IMC is harmless, as the I/O thread takes
//! what waits before it decides about the wire. So is a late IMS when its cause is yet to
//! come, for the same reason. What is left is a cause that is there already, waiting to be
//! unmasked by a write that nobody looks at. Drivers follow IMS with a read that brings it
//! to its destination; for one that does not, the I/O thread looks after [`LOOK`], and as
//! long as the cause stays masked ever later, at most every [`LOOK_LIMIT`]. So an interrupt
//! is late by no more than its cause had been masked or [`LOOK_LIMIT`], and a guest that
//! polls with its interrupts masked costs some sixty looks a second, which are no exits.
//! There is nothing to look for while the wire is up, or no cause is masked.
//!
//! **Reset.** Power-on, PCI reset and CTRL.RST clear everything.

use super::registers::Cause;
use crate::time::Nanos;

/// Unit of ITR (§13.4.18).
const ITR_UNIT: Nanos = 256;
/// Unit of RDTR, RADV, TIDV and TADV (§13.4.30).
const DELAY_UNIT: Nanos = 1024;
/// How long a delayed transmit interrupt may wait for the next packet.
pub const TX_HOLD: Nanos = 2_000_000;
/// How long it may wait in all.
pub const TX_HOLD_ALL: Nanos = 10_000_000;
/// How long an interrupt for packets that were already taken is put off.
pub const STALE_HOLD: Nanos = 1_000_000;
/// When to look whether a pending cause was unmasked, at first; it doubles.
pub const LOOK: Nanos = 1_000_000;
/// The longest time between such looks.
pub const LOOK_LIMIT: Nanos = 16_000_000;
/// Flush Partial Descriptor Block in RDTR and TIDV: the timer expires now.
const FLUSH: u32 = 1 << 31;

/// A delay timer and its absolute limit.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Delay {
    /// When the wire may be asserted; `None` when nothing waits.
    due: Option<Nanos>,
    /// When the first of what waits happened.
    first: Nanos,
}

impl Delay {
    /// Something more happened: it may wait for `each`, and for `all` since the first.
    fn extend(&mut self, now: Nanos, each: Nanos, all: Nanos) {
        if self.due.is_none() {
            self.first = now;
        }
        let limit = self.first.saturating_add(all);
        self.due = Some(now.saturating_add(each).min(limit));
    }

    fn expire(&mut self, now: Nanos) -> bool {
        let expired = self.due.is_some_and(|due| now >= due);
        if expired {
            self.due = None;
        }
        expired
    }
}

/// The interrupt unit.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Interrupts {
    #[serde(serialize_with = "super::state::bits")]
    causes: Cause,
    #[serde(serialize_with = "super::state::bits")]
    mask: Cause,
    /// Those of `causes` that need not wait.
    #[serde(serialize_with = "super::state::bits")]
    urgent: Cause,
    asserted: bool,
    itr: u16,
    rdtr: u16,
    radv: u16,
    tidv: u16,
    tadv: u16,
    /// The wire may be asserted again from then on.
    throttled: Nanos,
    receive: Delay,
    transmit: Delay,
    /// Transmit descriptors done that nobody was told of.
    untold: u32,
    doorbell: Nanos,
    /// Usual distance between doorbells.
    distance: Nanos,
    /// The delay for transmit write-backs has run out since the last doorbell.
    ran_out: bool,
    /// When to look whether the kernel has a write that unmasks a pending cause.
    look: Option<Nanos>,
    /// How long after that to look again.
    look_wait: Nanos,
}

impl Default for Interrupts {
    fn default() -> Self {
        Self {
            causes: Cause::empty(),
            mask: Cause::empty(),
            urgent: Cause::empty(),
            asserted: false,
            itr: 0,
            rdtr: 0,
            radv: 0,
            tidv: 0,
            tadv: 0,
            throttled: 0,
            receive: Delay::default(),
            transmit: Delay::default(),
            untold: 0,
            doorbell: 0,
            distance: TX_HOLD,
            ran_out: false,
            look: None,
            look_wait: LOOK,
        }
    }
}

impl Interrupts {
    /// Back to power-on.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// What the wire is.
    pub fn asserted(&self) -> bool {
        self.asserted
    }

    /// Causes happened that no timer delays.
    pub fn raise(&mut self, causes: Cause) {
        self.causes |= causes;
        self.urgent |= causes;
    }

    /// A packet was received.
    pub fn received(&mut self, now: Nanos) {
        self.causes |= Cause::RXT0;
        if self.rdtr == 0 {
            self.urgent |= Cause::RXT0;
            self.receive.due = None;
            return;
        }
        let all = match self.radv {
            0 => Nanos::MAX,
            radv => Nanos::from(radv) * DELAY_UNIT,
        };
        let each = Nanos::from(self.rdtr) * DELAY_UNIT;
        self.receive.extend(now, each, all);
    }

    /// The guest gave back every receive buffer there is, so it has seen every packet:
    /// telling it of them can wait for the next one, or a while.
    pub fn served(&mut self, now: Nanos) {
        if self.asserted || !self.causes.contains(Cause::RXT0) {
            return;
        }
        self.urgent &= !Cause::RXT0;
        self.receive.due = None;
        self.receive.extend(now, STALE_HOLD, STALE_HOLD);
    }

    /// The guest rang the transmit doorbell.
    pub fn doorbell(&mut self, now: Nanos) {
        let since = if std::mem::take(&mut self.ran_out) {
            // It may have waited to hear of what it sent, as TCP with its small queues does. That wait is not its own
            // pace: counted, it would lengthen the next one.
            0
        } else {
            now.saturating_sub(self.doorbell).min(TX_HOLD)
        };
        self.doorbell = now;
        self.distance = (self.distance * 7 + since) / 8;
    }

    /// `count` transmit descriptors are done, in a ring of `ring`. With `delayed` (IDE) the
    /// guest can wait to hear of it.
    pub fn transmitted(&mut self, count: u32, ring: u32, delayed: bool, now: Nanos) {
        self.causes |= Cause::TXDW;
        self.untold = self.untold.saturating_add(count);
        if !delayed || self.untold >= ring / 4 {
            self.urgent |= Cause::TXDW;
            return;
        }
        let programmed = Nanos::from(self.tidv) * DELAY_UNIT;
        let each = programmed.max((self.distance * 2).min(TX_HOLD));
        let all = (Nanos::from(self.tadv) * DELAY_UNIT).max(TX_HOLD_ALL);
        self.transmit.extend(now, each, all);
    }

    /// The transmit queue ran empty.
    pub fn queue_empty(&mut self, delayed: bool) {
        self.causes |= Cause::TXQE;
        if !delayed {
            self.urgent |= Cause::TXQE;
        }
    }

    /// Reads ICR, which clears it.
    pub fn read_causes(&mut self) -> Cause {
        let causes = self.causes;
        self.clear(Cause::all());
        causes
    }

    /// Clears causes: ICR is written with ones.
    pub fn clear(&mut self, causes: Cause) {
        self.causes &= !causes;
        self.urgent &= self.causes;
        if !self.causes.contains(Cause::RXT0) {
            self.receive.due = None;
        }
        if !self.causes.intersects(Cause::TXDW) {
            self.transmit.due = None;
            self.untold = 0;
        }
        self.release();
    }

    /// IMS as read.
    pub fn mask(&self) -> Cause {
        self.mask
    }

    /// Writes IMS.
    pub fn unmask(&mut self, causes: Cause) {
        self.mask |= causes;
    }

    /// Writes IMC.
    pub fn mask_off(&mut self, causes: Cause) {
        self.mask &= !causes;
        self.release();
    }

    fn release(&mut self) {
        self.asserted &= self.causes.intersects(self.mask);
    }

    /// Lets time pass and decides about the wire; true if it changed.
    pub fn advance(&mut self, now: Nanos) -> bool {
        if self.receive.expire(now) {
            self.urgent |= self.causes & Cause::RXT0;
        }
        if self.transmit.expire(now) {
            self.ran_out = true;
            self.urgent |= self.causes & (Cause::TXDW | Cause::TXQE);
        }
        let asserts = !self.asserted && self.urgent.intersects(self.mask) && now >= self.throttled;
        if asserts {
            self.asserted = true;
            self.throttled = now.saturating_add(Nanos::from(self.itr) * ITR_UNIT);
        }
        self.look_again(now);
        asserts
    }

    /// Decides when to look for a write that unmasks what is pending.
    fn look_again(&mut self, now: Nanos) {
        if self.asserted || self.mask.contains(self.urgent) {
            self.look = None;
            self.look_wait = LOOK;
        } else if self.look.is_none_or(|due| now >= due) {
            self.look = Some(now.saturating_add(self.look_wait));
            self.look_wait = (2 * self.look_wait).min(LOOK_LIMIT);
        }
    }

    /// When [`Self::advance`] may have something to do. Delays run whether or not their
    /// cause is masked, so that unmasking it needs nobody to look at a clock.
    pub fn deadline(&self) -> Option<Nanos> {
        if self.asserted {
            return None;
        }
        let waiting = self.urgent.intersects(self.mask);
        let throttled = waiting.then_some(self.throttled);
        [throttled, self.receive.due, self.transmit.due, self.look]
            .into_iter()
            .flatten()
            .min()
    }

    /// ITR.
    pub fn throttle(&self) -> u16 {
        self.itr
    }

    /// Writes ITR. What is already being waited for shortens, but never lengthens.
    pub fn set_throttle(&mut self, value: u32, now: Nanos) {
        self.itr = value as u16;
        let limit = now.saturating_add(Nanos::from(self.itr) * ITR_UNIT);
        self.throttled = self.throttled.min(limit);
    }

    /// RDTR.
    pub fn receive_delay(&self) -> u16 {
        self.rdtr
    }

    /// Writes RDTR; its top bit ends a delay now.
    pub fn set_receive_delay(&mut self, value: u32) {
        self.rdtr = value as u16;
        if value & FLUSH != 0 {
            self.receive.due = None;
            self.urgent |= self.causes & Cause::RXT0;
        }
    }

    /// RADV.
    pub fn receive_limit(&self) -> u16 {
        self.radv
    }

    /// Writes RADV.
    pub fn set_receive_limit(&mut self, value: u32) {
        self.radv = value as u16;
    }

    /// TIDV.
    pub fn transmit_delay(&self) -> u16 {
        self.tidv
    }

    /// Writes TIDV; its top bit ends a delay now.
    pub fn set_transmit_delay(&mut self, value: u32) {
        self.tidv = value as u16;
        if value & FLUSH != 0 {
            self.transmit.due = None;
            self.urgent |= self.causes & (Cause::TXDW | Cause::TXQE);
        }
    }

    /// TADV.
    pub fn transmit_limit(&self) -> u16 {
        self.tadv
    }

    /// Writes TADV.
    pub fn set_transmit_limit(&mut self, value: u32) {
        self.tadv = value as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Interrupts {
        let mut unit = Interrupts::default();
        unit.unmask(Cause::all());
        unit
    }

    #[test]
    fn a_cause_asserts_until_it_is_read() {
        let mut unit = Interrupts::default();
        unit.raise(Cause::LSC | Cause::RXO);
        assert!(!unit.advance(0) && unit.deadline() == Some(LOOK));
        unit.unmask(Cause::LSC);
        assert!(unit.advance(0) && unit.asserted());
        // Read as a whole, masked or not.
        assert_eq!(unit.read_causes(), Cause::LSC | Cause::RXO);
        assert!(!unit.asserted());
        assert_eq!(unit.read_causes(), Cause::empty());
    }

    #[test]
    fn a_mask_lowers_the_wire_and_keeps_the_cause() {
        let mut unit = enabled();
        unit.raise(Cause::LSC);
        unit.advance(0);
        unit.mask_off(Cause::all());
        assert!(!unit.asserted());
        unit.unmask(Cause::LSC);
        assert!(unit.advance(0) && unit.asserted());
        // Written ones clear.
        unit.clear(Cause::RXT0);
        assert!(unit.asserted());
        unit.clear(Cause::LSC);
        assert!(!unit.asserted());
    }

    #[test]
    fn without_timers_interrupts_are_immediate() {
        let mut unit = enabled();
        for now in 0..3 {
            unit.received(now);
            assert!(unit.advance(now));
            unit.read_causes();
        }
    }

    #[test]
    fn throttling_spaces_assertions() {
        let mut unit = enabled();
        unit.set_throttle(100, 0);
        unit.received(1000);
        assert!(unit.advance(1000));
        unit.read_causes();
        unit.received(1100);
        assert!(!unit.advance(1100));
        assert_eq!(unit.deadline(), Some(1000 + 25_600));
        assert!(!unit.advance(1000 + 25_599));
        assert!(unit.advance(1000 + 25_600));
        unit.read_causes();
        // A shorter interval takes effect at once.
        unit.received(27_000);
        unit.set_throttle(0, 27_000);
        assert!(unit.advance(27_000));
    }

    #[test]
    fn receive_timers_delay_and_are_limited() {
        let mut unit = enabled();
        unit.set_receive_delay(10);
        unit.set_receive_limit(15);
        unit.received(0);
        assert_eq!(unit.deadline(), Some(10_240));
        unit.received(9_000);
        assert_eq!(unit.deadline(), Some(15_360));
        assert!(!unit.advance(15_359) && unit.advance(15_360));
        unit.read_causes();
        // With no absolute limit each packet starts it anew.
        unit.set_receive_limit(0);
        for now in [20_000, 30_000, 40_000] {
            unit.received(now);
            assert!(!unit.advance(now));
        }
        assert_eq!(unit.deadline(), Some(50_240));
        unit.set_receive_delay(FLUSH | 10);
        assert!(unit.advance(40_001));
    }

    #[test]
    fn transmit_waits_only_when_allowed_to() {
        let mut unit = enabled();
        unit.transmitted(1, 256, false, 0);
        assert!(unit.advance(0));
        unit.read_causes();
        unit.transmitted(1, 256, true, 0);
        assert!(!unit.advance(0));
        assert_eq!(unit.deadline(), Some(TX_HOLD));
        // Somebody who asks is told.
        assert_eq!(unit.read_causes(), Cause::TXDW);
        assert!(!unit.advance(TX_HOLD));
        // What the guest programs is honoured where it is longer.
        unit.set_transmit_delay(60_000);
        unit.set_transmit_limit(60_000);
        unit.transmitted(1, 256, true, 0);
        assert_eq!(unit.deadline(), Some(61_440_000));
    }

    #[test]
    fn a_masked_cause_is_looked_at_less_and_less() {
        let mut unit = enabled();
        unit.mask_off(Cause::all());
        assert!(!unit.advance(0));
        assert_eq!(unit.deadline(), None, "there is nothing to look for");
        unit.received(0);
        let mut looks = Vec::new();
        while unit.deadline().is_none_or(|due| due < 1_000_000_000) {
            assert!(!unit.advance(unit.deadline().unwrap_or(0)));
            looks.extend(unit.deadline());
        }
        assert_eq!(looks[..5], [1, 3, 7, 15, 31].map(|ms| ms * LOOK));
        assert!(looks.len() < 70, "{}", looks.len());
        unit.unmask(Cause::RXT0);
        assert!(unit.advance(1_000_000_000));
        assert_eq!(unit.deadline(), None);
        // One that nobody unmasks does not outlive its cause, and the next starts anew.
        unit.mask_off(Cause::all());
        unit.advance(1_000_000_000);
        assert!(unit.deadline().is_some());
        unit.read_causes();
        unit.advance(1_000_000_000);
        assert_eq!(unit.deadline(), None);
        unit.received(2_000_000_000);
        unit.advance(2_000_000_000);
        assert_eq!(unit.deadline(), Some(2_000_000_000 + LOOK));
    }

    #[test]
    fn a_busy_sender_is_told_by_the_quarter_ring() {
        let mut unit = enabled();
        let mut now = 0;
        let mut told = Vec::new();
        for packet in 0..256 {
            now += 10_000;
            unit.doorbell(now);
            unit.transmitted(1, 256, true, now);
            if unit.advance(now) {
                told.push(packet);
                unit.read_causes();
            }
        }
        assert_eq!(told, [63, 127, 191, 255]);
        // And, when it stops, after twice the usual distance.
        unit.doorbell(now + 10_000);
        unit.transmitted(1, 256, true, now + 10_000);
        let wait = unit.deadline().unwrap() - (now + 10_000);
        assert!((19_000..30_000).contains(&wait), "{wait}");
    }

    #[test]
    fn a_sender_that_waits_to_be_told_is_told_ever_sooner() {
        let mut unit = enabled();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..32 {
            unit.doorbell(now);
            unit.transmitted(1, 256, true, now);
            let due = unit.deadline().unwrap();
            waits.push(due - now);
            assert!(unit.advance(due));
            unit.read_causes();
            now = due + 50_000;
        }
        assert_eq!(waits[0], TX_HOLD);
        assert!(waits[31] < TX_HOLD / 10, "{waits:?}");
    }

    #[test]
    fn packets_already_taken_do_not_interrupt_soon() {
        let mut unit = enabled();
        unit.received(0);
        unit.served(10);
        assert!(!unit.advance(10));
        assert_eq!(unit.deadline(), Some(10 + STALE_HOLD));
        unit.received(20);
        assert!(unit.advance(20));
        // An asserted wire is not taken back.
        unit.served(30);
        assert!(unit.asserted());
    }
}
