//! The walk against another one, written from the manual's tables of bits rather than from the
//! model: random PASID entries, and random tables of both stages.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::reference::{HAW, POOL, answer, before_interrupts, fill_pool, stray, target};
use super::*;

/// Where root, context and PASID tables are: no random entry leads here.
const ROOTS: u64 = HIGH + 0x30_5000;
/// Lower and upper context table, PASID directory and PASID table.
const LOWER: u64 = ROOTS + 0x1000;
const UPPER: u64 = ROOTS + 0x2000;
const DIRECTORY: u64 = ROOTS + 0x3000;
const PASIDS: u64 = ROOTS + 0x4000;

/// Where a page leads to, how many bytes are left in it, and whether it may be read, written.
type Found = Result<(u64, u64, [bool; 2]), u8>;

/// What a request comes to: address and length, or the fault's reason and whether it is quiet.
type Outcome = Result<(u64, u64), (u8, bool)>;

struct Reference<'a> {
    rig: &'a Rig,
    config: VtdConfig,
    /// Bits that the walk sets, by address.
    marks: Vec<(u64, u64)>,
}

impl Reference<'_> {
    fn quad(&self, address: u64, otherwise: u8) -> Result<u64, u8> {
        let object = self.rig.memory.read_obj(GuestAddress(address));
        object.map_err(|_| otherwise)
    }

    fn bits(&self, aw: u64) -> Option<u32> {
        match (aw, self.config.width) {
            (1, _) => Some(39),
            (2, _) => Some(48),
            (3, Width::Bits57) => Some(57),
            _ => None,
        }
    }

    fn outcome(&mut self, requester: Bdf, iova: u64, write: bool) -> Outcome {
        let mut quiet = false;
        let entry = self.pasid_entry(requester, &mut quiet);
        let entry = entry.map_err(|reason| match reason {
            0x38..=0x3a | 0x40 | 0x50 | 0x58 => (reason, false),
            _ => (reason, quiet),
        })?;
        self.translated(entry, iova, write)
            .map_err(|reason| (reason, quiet))
    }

    /// The PASID entry, and whether requests are a supervisor's.
    fn pasid_entry(&self, requester: Bdf, quiet: &mut bool) -> Result<([u64; 3], bool), u8> {
        let id = u64::from(requester.requester_id());
        let half = self.quad(ROOTS + (id >> 8) * 16 + (id >> 7 & 1) * 8, 0x38)?;
        if half % 2 == 0 {
            return Err(0x39);
        }
        if half >> HAW > 0 || half & 0xffe > 0 {
            return Err(0x3a);
        }
        let at = (half >> 12 << 12) + id % 128 * 32;
        let mut context = [0; 4];
        for (i, quad) in (0..).zip(&mut context) {
            *quad = self.quad(at + i * 8, 0x40)?;
        }
        let [low, high, ..] = context;
        *quiet |= low >> 1 & 1 == 1;
        if low % 2 == 0 {
            return Err(0x41);
        }
        let dte = low >> 2 & 1 == 1 && !self.config.device_tlb;
        let lower = low >> HAW > 0 || low & 0x1f8 > 0 || dte;
        let privileged = high >> 20 & 1 == 1;
        let upper = high >> 21 > 0 || privileged && !self.config.first_stage;
        if lower || upper || context[2..] != [0, 0] {
            return Err(0x42);
        }
        let pasid = high & 0xf_ffff;
        if pasid >= 64 * (128 << (low >> 9 & 7)) {
            return Err(0x48);
        }
        let directory = self.quad((low >> 12 << 12) + pasid / 64 * 8, 0x50)?;
        *quiet |= directory >> 1 & 1 == 1;
        if directory % 2 == 0 {
            return Err(0x51);
        }
        if directory >> HAW > 0 || directory & 0xffc > 0 {
            return Err(0x52);
        }
        let at = (directory >> 12 << 12) + pasid % 64 * 64;
        let mut entry = [0; 8];
        for (i, quad) in (0..).zip(&mut entry) {
            *quad = self.quad(at + i * 8, 0x58)?;
        }
        *quiet |= entry[0] >> 1 & 1 == 1;
        if entry[0] % 2 == 0 {
            return Err(0x59);
        }
        if self.is_reserved(&entry) {
            return Err(0x5a);
        }
        let [low, high, first, ..] = entry;
        self.check(low, first)?;
        if privileged && first % 2 == 0 {
            return Err(0x5d);
        }
        Ok(([low, high, first], privileged))
    }

    fn is_reserved(&self, entry: &[u64; 8]) -> bool {
        let kind = entry[0] >> 6 & 7;
        let mut zero: Vec<(usize, u32)> = [5, 9, 10, 11].map(|bit| (0, bit)).to_vec();
        zero.extend((16..23).chain(25..64).map(|bit| (1, bit)));
        zero.extend([1, 6, 7, 8, 9, 10, 11].map(|bit| (2, bit)));
        zero.extend((0..320).map(|bit| (3 + bit as usize / 64, bit % 64)));
        if matches!(kind, 2 | 3) {
            zero.extend((HAW..64).map(|bit| (0, bit)));
        }
        match kind {
            1 => zero.extend((HAW..64).map(|bit| (2, bit))),
            3 => zero.extend((52..64).map(|bit| (2, bit))),
            _ => {}
        }
        if !self.config.snoop_control {
            zero.push((1, 24));
        }
        zero.iter().any(|&(quad, bit)| entry[quad] >> bit & 1 == 1)
    }

    fn check(&self, low: u64, first: u64) -> Result<(), u8> {
        let kind = low >> 6 & 7;
        let width = kind == 1 || self.bits(low >> 2 & 7).is_some();
        let five = self.config.width == Width::Bits57;
        let mode = match first >> 2 & 3 {
            0 => true,
            1 => five,
            _ => false,
        };
        let offered = match kind {
            1 | 3 => self.config.first_stage && mode,
            2 | 4 => true,
            _ => false,
        };
        if offered && width { Ok(()) } else { Err(0x5b) }
    }

    fn translated(
        &mut self,
        ([low, _, first], privileged): ([u64; 3], bool),
        iova: u64,
        write: bool,
    ) -> Result<(u64, u64), u8> {
        let kind = low >> 6 & 7;
        let second = (low >> 12 << 12, self.bits(low >> 2 & 7).unwrap_or(0));
        let (to, room, rights) = match kind {
            4 | 2 if iova >> second.1 > 0 => return Err(0x83),
            4 => return Ok((iova, (1 << second.1) - iova)),
            2 => self.second(second, iova)?,
            _ => {
                let second = (kind == 3).then_some(second);
                self.first(first, privileged, second, iova, write)?
            }
        };
        match (rights, write) {
            ([_, false], true) => Err(0x85),
            ([false, _], false) => Err(0x86),
            _ if (0xfee0_0000..0xfef0_0000).contains(&to) => Err(0x87),
            _ => Ok((to, room)),
        }
    }

    fn second(&self, (top, bits): (u64, u32), address: u64) -> Found {
        let (mut table, mut below, mut allowed) = (top, bits - 9, 3);
        loop {
            let number = address >> below & 0x1ff;
            let unreadable = if below == bits - 9 { 0x7b } else { 0x78 };
            let entry = self.quad(table + number * 8, unreadable)?;
            if entry % 4 == 0 {
                return Err(0x79);
            }
            let is_page = below == 12 || entry & 0x80 > 0 && (below == 21 || below == 30);
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
                return Err(0x7a);
            }
            allowed &= entry;
            table = entry % (1 << 52) / 0x1000 * 0x1000;
            if is_page {
                let offset = address % (1 << below);
                let rights = [allowed & 1 > 0, allowed & 2 > 0];
                return Ok((table + offset, (1 << below) - offset, rights));
            }
            below -= 9;
        }
    }

    fn first(
        &mut self,
        pointer: u64,
        privileged: bool,
        second: Option<(u64, u32)>,
        iova: u64,
        write: bool,
    ) -> Found {
        let bits = if pointer >> 2 & 3 == 1 { 57 } else { 48 };
        let sign = (iova as i64) >> (bits - 1);
        if sign != 0 && sign != -1 {
            return Err(0x80);
        }
        let (mut table, mut below, mut allowed) = (pointer >> 12 << 12, bits - 9, 6);
        let (to, room) = loop {
            let top = below == bits - 9;
            let at = table + (iova >> below & 0x1ff) * 8;
            let (at, writable) = self.behind(second, at, top)?;
            let entry = self.quad(at, if top { 0x73 } else { 0x70 })?;
            if entry % 2 == 0 {
                return Err(0x71);
            }
            let is_page = below == 12 || entry & 0x80 > 0 && (below == 21 || below == 30);
            let mut zero: Vec<u32> = match second {
                None => (HAW..52).collect(),
                Some(_) => Vec::new(),
            };
            if is_page {
                zero.extend(13..below);
            }
            if below > 30 {
                zero.push(7);
            }
            if zero.iter().any(|bit| entry >> bit & 1 == 1) {
                return Err(0x72);
            }
            allowed &= entry;
            let mut mark = 0x20;
            if is_page {
                if allowed & 4 == 0 && !privileged {
                    return Err(0x81);
                }
                let write_protect = !privileged || pointer >> 4 & 1 == 1;
                if write && allowed & 2 == 0 && write_protect {
                    return Err(0x85);
                }
                mark |= if write { 0x40 } else { 0 };
            }
            if entry & mark != mark {
                if !writable {
                    return Err(0x77);
                }
                self.marks.push((at, mark));
            }
            table = entry % (1 << 52) / 0x1000 * 0x1000;
            if is_page {
                let offset = iova % (1 << below);
                break ((table >> below << below) + offset, (1 << below) - offset);
            }
            below -= 9;
        };
        let Some(second) = second else {
            return Ok((to, room, [true, true]));
        };
        if to >> second.1 > 0 {
            return Err(0x84);
        }
        let (to, behind, rights) = self.second(second, to)?;
        Ok((to, behind.min(room), rights))
    }

    /// Where an entry of the first stage is, and whether it may be written.
    fn behind(&self, second: Option<(u64, u32)>, at: u64, top: bool) -> Result<(u64, bool), u8> {
        let Some(second) = second else {
            return Ok((at, true));
        };
        if at >> second.1 > 0 {
            return Err(0x74);
        }
        let (to, _, [read, write]) = self.second(second, at)?;
        match (read, top) {
            (true, _) => Ok((to, write)),
            (false, true) => Err(0x75),
            (false, false) => Err(0x76),
        }
    }
}

/// An entry of either stage that likely points into the pool, and likely has few flags wrong.
fn entry() -> impl Strategy<Value = u64> {
    let flags = prop_oneof![
        40 => Just(7_u64),
        3 => 0_u64..8,
        3 => (0_u64..8).prop_map(|flags| flags | 0x80),
        1 => any::<u16>().prop_map(|flags| u64::from(flags) & 0xfff),
    ];
    (target(), flags, stray(100)).prop_map(|(target, flags, stray)| target | flags | stray)
}

/// Addresses whose indices are among the few that the tables have entries at.
fn address() -> impl Strategy<Value = u64> {
    (vec(0_u64..4, 5), 0_u64..0x1000, stray(20)).prop_map(|(parts, offset, stray)| {
        // Mostly of three parts, which fit every width.
        let parts = &parts[if offset % 4 == 0 { 0 } else { 2 }..];
        let page = parts.iter().fold(0, |page, part| page << 9 | part);
        page << 12 | offset | stray
    })
}

/// A context and a PASID entry, and the directory entry between them.
#[derive(Clone, Debug)]
struct Entries {
    context: [u64; 2],
    directory: u64,
    pasid: [u64; 8],
}

fn pasid() -> impl Strategy<Value = [u64; 8]> {
    let kind = prop_oneof![
        20 => Just(3_u64),
        10 => Just(1),
        6 => Just(2),
        2 => Just(4),
        1 => 0_u64..8,
    ];
    let aw = prop_oneof![30 => 1_u64..4, 1 => 0_u64..8];
    // The last page begins with a page of 1 GiB at 0, so that tables may be behind it.
    let second = prop_oneof![1 => POOL, 4 => Just(POOL.end - 1)];
    // SRE, FSPM and WPE.
    let modes = prop_oneof![
        30 => prop_oneof![2 => Just(0_u64), 4 => Just(1), 2 => Just(5), 1 => Just(0x11)],
        1 => 0_u64..64,
    ];
    let strays = [stray(100), stray(100), stray(100), stray(100)];
    (kind, aw, second, POOL, modes, strays, 3..8_usize).prop_map(
        |(kind, aw, second, first, modes, [a, b, c, d], at)| {
            let low = second << 12 | kind << 6 | aw << 2 | 1;
            let mut entry = [low | a, 5 | b, first << 12 | modes | c, 0, 0, 0, 0, 0];
            entry[at] = d;
            entry
        },
    )
}

fn entries() -> impl Strategy<Value = Entries> {
    let rid = prop_oneof![60 => 0_u64..64, 1 => 0_u64..1 << 20];
    let strays = [stray(100), stray(100), stray(100)];
    (pasid(), strays, rid, prop::bool::weighted(0.2)).prop_map(
        |(pasid, [a, b, c], rid, supervisor)| Entries {
            context: [DIRECTORY | 1 | a, rid | u64::from(supervisor) << 20 | b],
            directory: PASIDS | 1 | c,
            pasid,
        },
    )
}

/// Writes them for a requester. What is beyond a table is not there.
fn set(rig: &Rig, requester: Bdf, entries: &Entries) {
    let id = u64::from(requester.requester_id());
    let table = if id & 0x80 == 0 { LOWER } else { UPPER };
    rig.poke(ROOTS, LOWER | 1);
    rig.poke(ROOTS + 8, UPPER | 1);
    for (i, quad) in (0..).zip(entries.context) {
        rig.poke(table + id % 128 * 32 + i * 8, quad);
    }
    rig.poke(DIRECTORY, entries.directory);
    let number = entries.context[1] & 0x3f;
    for (i, quad) in (0..).zip(entries.pasid) {
        rig.poke(PASIDS + number * 64 + i * 8, quad);
    }
}

fn check(config: VtdConfig, tables: &[u64], entries: &Entries, requests: &[(u64, bool, bool)]) {
    let rig = Rig::with(config);
    fill_pool(&rig, tables);
    rig.poke((POOL.end - 1) << 12, 0x87);
    rig.w64(offset::RTADDR, ROOTS | 1 << 10);
    rig.w32(offset::GCMD, SRTP);
    rig.w32(offset::GCMD, TE);
    for (i, &(iova, upper, write)) in requests.iter().enumerate() {
        // Devices of either half of the bus.
        let requester = Bdf::new(0, if i % 2 == 0 { 1 } else { 17 }, 0);
        set(&rig, requester, entries);
        let iova = if upper { !iova } else { iova };
        let mut reference = Reference {
            rig: &rig,
            config,
            marks: Vec::new(),
        };
        let outcome = reference.outcome(requester, iova, write);
        let marks = reference.marks;
        let wanted = wanted(outcome, iova);
        // Once from the tables and once from the caches.
        for _ in 0..2 {
            assert_eq!(answer(&rig, requester, iova, write), wanted, "{iova:#x}");
        }
        for (at, mark) in marks {
            assert_eq!(rig.peek(at) & mark, mark, "{at:#x}");
        }
        rig.contexts(1, 0, NIC, 0);
        rig.iotlb(1, 0, 0);
    }
}

/// What the model should say: lengths as far as asked, faults as far as recorded.
fn wanted(outcome: Outcome, iova: u64) -> Result<(u64, u64), Option<u8>> {
    match outcome {
        Ok((to, room)) => {
            let room = room.min(0x123).min(before_interrupts(iova));
            Ok((to, room.min(before_interrupts(to))))
        }
        Err((_, true)) => Err(None),
        Err((reason, false)) => Err(Some(reason)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_walk_agrees_with_the_reference(
        tables in vec(entry(), 48),
        entries in entries(),
        requests in vec((address(), prop::bool::weighted(0.1), any::<bool>()), 1..40),
        width in prop_oneof![1 => Just(Width::Bits48), 3 => Just(Width::Bits57)],
        snoop_control in any::<bool>(),
        device_tlb in any::<bool>(),
        first_stage in prop::bool::weighted(0.9),
    ) {
        let config = VtdConfig {
            width,
            host_width: HAW as u8,
            snoop_control,
            device_tlb,
            first_stage,
            ..SCALABLE
        };
        check(config, &tables, &entries, &requests);
    }
}
