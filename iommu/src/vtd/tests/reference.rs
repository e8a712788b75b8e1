//! The walk against another one, written from the manual's tables of bits rather than from
//! the model: random tables of all levels, page lengths, permissions and reserved bits.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Bits of host address, for which the tables below are written.
pub(crate) const HAW: u32 = 40;

/// Pages that tables are in: ROOT is the first, and entries point at all of them.
pub(crate) const POOL: std::ops::Range<u64> = 0x10..0x1c;

/// What a request comes to: address and length, or the fault's reason.
type Outcome = Result<(u64, u64), u8>;

struct Reference<'a> {
    rig: &'a Rig,
    config: VtdConfig,
}

impl Reference<'_> {
    fn quad(&self, address: u64, otherwise: u8) -> Result<u64, u8> {
        let object = self.rig.memory.read_obj(GuestAddress(address));
        object.map_err(|_| otherwise)
    }

    fn outcome(&self, root: u64, requester: Bdf, iova: u64, write: bool) -> Outcome {
        let id = u64::from(requester.requester_id());
        let root_at = root + (id >> 8) * 16;
        let (low, high) = (self.quad(root_at, 8)?, self.quad(root_at + 8, 8)?);
        if low % 2 == 0 {
            return Err(1);
        }
        if high > 0 || low >> HAW > 0 || low & 0xffe > 0 {
            return Err(0xa);
        }
        let context_at = (low >> 12 << 12) + (id & 0xff) * 16;
        let (low, high) = (self.quad(context_at, 9)?, self.quad(context_at + 8, 9)?);
        if low % 2 == 0 {
            return Err(2);
        }
        let kind = low >> 2 & 3;
        if low & 0xff0 > 0 || high & 0x80 > 0 || high >> 24 > 0 {
            return Err(0xb);
        }
        if kind != 2 && low >> HAW > 0 {
            return Err(0xb);
        }
        let bits = match (high & 7, self.config.width) {
            (1, _) => 39,
            (2, Width::Bits48 | Width::Bits57) => 48,
            (3, Width::Bits57) => 57,
            _ => return Err(3),
        };
        if kind == 3 || kind == 1 && !self.config.device_tlb {
            return Err(3);
        }
        if iova >= 1 << bits {
            return Err(4);
        }
        if kind == 2 {
            return Ok((iova, (1 << bits) - iova));
        }
        self.descend(low >> 12 << 12, bits, iova, 3, write)
    }

    /// `table` translates the low `bits` of the address; `allowed` is what the tables above
    /// it allow.
    fn descend(&self, table: u64, bits: u32, iova: u64, allowed: u64, write: bool) -> Outcome {
        let denied = if write { 5 } else { 6 };
        let below = bits - 9;
        let number = iova % (1 << bits) / (1 << below);
        let entry = self.quad(table + number * 8, 7)?;
        if entry % 4 == 0 {
            return Err(denied);
        }
        let large = entry & 0x80 > 0;
        let is_page = below == 12 || large && (below == 21 || below == 30);
        // Bits that must be zero, from the table of the manual.
        let mut zero: Vec<u32> = (HAW..52).chain([62]).collect();
        if is_page {
            zero.extend(12..below);
        }
        if !is_page || !self.config.snoop_control {
            zero.push(11);
        }
        if below > 30 {
            zero.push(7);
        }
        if zero.iter().any(|bit| entry >> bit & 1 == 1) {
            return Err(0xc);
        }
        let allowed = allowed & entry;
        let address = entry % (1 << 52) / 0x1000 * 0x1000;
        if !is_page {
            return self.descend(address, below, iova, allowed, write);
        }
        if allowed & if write { 2 } else { 1 } == 0 {
            return Err(denied);
        }
        let offset = iova % (1 << below);
        match address + offset {
            0xfee0_0000..0xfef0_0000 => Err(0xe),
            to => Ok((to, (1 << below) - offset)),
        }
    }
}

/// Where an entry points to: likely into the pool.
pub(super) fn target() -> impl Strategy<Value = u64> {
    prop_oneof![
        16 => POOL.prop_map(|page| page << 12),
        2 => (0_u64..1 << 10).prop_map(|giant| giant << 30),
        1 => (0_u64..1 << 19).prop_map(|large| large << 21),
        1 => Just(0xfee0_0000),
        1 => Just(1 << 39),
    ]
}

/// A bit somewhere, once in so many times.
pub(super) fn stray(seldom: u32) -> impl Strategy<Value = u64> {
    prop_oneof![seldom => Just(0_u64), 1 => (0_u32..64).prop_map(|bit| 1 << bit)]
}

/// An entry that likely points into the pool, and likely has few flags wrong.
pub(crate) fn entry() -> impl Strategy<Value = u64> {
    let flags = prop_oneof![
        16 => Just(3_u64),
        2 => 0_u64..4,
        2 => (0_u64..4).prop_map(|flags| flags | 0x80),
        1 => any::<u16>().prop_map(|flags| u64::from(flags) & 0xfff),
    ];
    (target(), flags, stray(40)).prop_map(|(target, flags, stray)| target | flags | stray)
}

fn context_low() -> impl Strategy<Value = u64> {
    let kind = prop_oneof![20 => Just(0_u64), 1 => 0_u64..4];
    let wrong = prop_oneof![
        30 => Just(1_u64),
        1 => Just(0),
        1 => (0_u32..64).prop_map(|bit| 1 | 1 << bit),
    ];
    (POOL, kind, wrong).prop_map(|(page, kind, wrong)| page << 12 | kind << 2 | wrong)
}

fn context_high() -> impl Strategy<Value = u64> {
    let width = prop_oneof![30 => 1_u64..4, 1 => 0_u64..8];
    (width, stray(30)).prop_map(|(width, wrong)| width | wrong | 0x700)
}

/// Addresses whose indices are among the few that the tables have entries at.
pub(crate) fn iova() -> impl Strategy<Value = u64> {
    // Mostly of three parts, which fit every width.
    let parts = prop_oneof![3 => vec(0_u64..4, 3), 1 => vec(0_u64..4, 5)];
    (parts, 0_u64..0x1000, 0_u32..200).prop_map(|(parts, offset, bit)| {
        let stray = if bit < 64 { 1 << bit } else { 0 };
        let page = parts.iter().fold(0, |page, part| page << 9 | part);
        page << 12 | offset | stray
    })
}

/// Writes the first entries of every page of the pool.
pub(crate) fn fill_pool(rig: &Rig, entries: &[u64]) {
    let slots = POOL.flat_map(|page| (0..4).map(move |slot| (page << 12) + slot * 8));
    for (at, entry) in slots.zip(entries) {
        rig.poke(at, *entry);
    }
}

/// How many bytes there are before the interrupt address range.
pub(super) fn before_interrupts(from: u64) -> u64 {
    match 0xfee0_0000_u64.checked_sub(from) {
        Some(room) if room > 0 => room,
        _ => u64::MAX,
    }
}

/// What the model says to a request of 0x123 bytes: where they are and how many, or the reason
/// that is recorded.
pub(super) fn answer(
    rig: &Rig,
    requester: Bdf,
    iova: u64,
    write: bool,
) -> Result<(u64, u64), Option<u8>> {
    let access = if write { Access::Write } else { Access::Read };
    let to = rig.vtd.translate(requester, iova, 0x123, access);
    let recorded = rig.take_faults();
    match to {
        Ok(to) => Ok((to.gpa, to.len)),
        Err(_) => Err(recorded.first().map(|record| record.reason)),
    }
}

fn check(config: VtdConfig, entries: &[u64], contexts: &[(u64, u64)], requests: &[(u64, bool)]) {
    let rig = Rig::with(config);
    fill_pool(&rig, entries);
    for (function, &(low, high)) in contexts.iter().enumerate() {
        rig.set_context(Bdf::new(0, 1, function as u8), low, high);
    }
    rig.enable();
    let reference = Reference { rig: &rig, config };
    for &(iova, write) in requests {
        for function in 0..contexts.len() {
            let requester = Bdf::new(0, 1, function as u8);
            let outcome = reference.outcome(ROOT, requester, iova, write);
            let wanted = wanted(outcome, &rig, requester);
            // Once from the tables and once from the caches.
            for _ in 0..2 {
                assert_eq!(answer(&rig, requester, iova, write), wanted, "{iova:#x}");
            }
        }
    }
}

/// What the model should say: lengths as far as asked, faults as far as recorded.
fn wanted(outcome: Outcome, rig: &Rig, requester: Bdf) -> Result<(u64, u64), Option<u8>> {
    let quiet = rig.peek(Rig::context_entry(requester)) & 2 != 0;
    match outcome {
        Ok((to, room)) => Ok((to, room.min(0x123).min(before_interrupts(to)))),
        Err(reason) if quiet && !matches!(reason, 1 | 8 | 9 | 0xa) => Err(None),
        Err(reason) => Err(Some(reason)),
    }
}

proptest! {
    #[test]
    fn the_walk_agrees_with_the_reference(
        entries in vec(entry(), 48),
        contexts in vec((context_low(), context_high()), 1..4),
        requests in vec((iova(), any::<bool>()), 1..60),
        width in prop_oneof![
            1 => Just(Width::Bits39),
            1 => Just(Width::Bits48),
            6 => Just(Width::Bits57),
        ],
        snoop_control in any::<bool>(),
        device_tlb in any::<bool>(),
    ) {
        let config = VtdConfig {
            width,
            host_width: HAW as u8,
            snoop_control,
            device_tlb,
            ..CONFIG
        };
        check(config, &entries, &contexts, &requests);
    }
}
