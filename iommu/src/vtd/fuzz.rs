//! A unit at the hands of a hostile guest: functions of arbitrary bytes that must neither
//! panic nor hang, for property tests here and for fuzz targets. They check what must hold
//! whatever the bytes are.

use std::sync::Arc;

use pci::fuzz::Input;
use pci::{Bdf, MsiMessage};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::registers::offset;
use super::{Deaf, Vtd, VtdConfig, Width};
use crate::{Access, Remapper};

const RAM: usize = 128 << 10;
const QUEUE: u64 = 0x1_0000;
const TE: u64 = 1 << 31;
const SRTP: u64 = 1 << 30;
const QIE: u64 = 1 << 26;
const IRE: u64 = 1 << 25;
const SIRTP: u64 = 1 << 24;
const CFI: u64 = 1 << 23;

/// A unit whose configuration is in the first byte, and whose RAM repeats the rest.
fn unit(bytes: &[u8]) -> (Vtd, Input<'_>) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let config = VtdConfig {
        width: match flags & 3 {
            0 => Width::Bits39,
            1 => Width::Bits48,
            _ => Width::Bits57,
        },
        host_width: if flags & 4 != 0 { 52 } else { 36 },
        interrupt_remapping: flags & 8 == 0,
        eim: flags & 16 == 0,
        caching_mode: flags & 32 != 0,
        snoop_control: flags & 64 != 0,
        device_tlb: flags & 64 == 0,
        draining: flags & 32 == 0,
        wide_descriptors: flags & 128 != 0,
        scalable: flags & 128 != 0,
        first_stage: flags & 32 == 0,
    };
    let ram = [(GuestAddress(0), RAM)];
    let memory = GuestMemoryMmap::from_ranges(&ram).unwrap_or_default();
    let mut pattern = input.rest().to_vec();
    while (1..RAM).contains(&pattern.len()) {
        pattern.extend_from_within(..);
    }
    pattern.truncate(RAM);
    // Written whole or, without RAM, not at all: either is a guest.
    let _ = memory.write_slice(&pattern, GuestAddress(0));
    (Vtd::new(config, Arc::new(memory), Arc::new(Deaf)), input)
}

/// The invalidation queue, full of arbitrary descriptors; errors are cleared a few times.
pub fn queue(bytes: &[u8]) {
    let (vtd, mut input) = unit(bytes);
    let wide = u64::from(input.u8() & 1) << 11;
    vtd.write(offset::IQA, 8, QUEUE | wide);
    vtd.write(offset::GCMD, 4, QIE);
    for _ in 0..16 {
        let tail = u64::from(input.u16()) & 0x1ff0;
        vtd.write(offset::IQT, 8, tail);
        let stopped = vtd.read(offset::FSTS, 4) & 0x10 != 0;
        let head = vtd.read(offset::IQH, 8);
        assert!(head < 0x1000 && (stopped || head == tail));
        assert_eq!(stopped, vtd.read(offset::IQERCD, 8) != 0);
        // Half of the time the guest skips the descriptor, as far as it can.
        if stopped && input.u8() & 1 != 0 {
            let _ = vtd.memory.write_obj(0x12_u64, GuestAddress(QUEUE + head));
            let _ = vtd.memory.write_obj(0_u64, GuestAddress(QUEUE + head + 8));
        }
        vtd.write(offset::FSTS, 4, 0x10);
    }
}

/// Root, context and page tables of arbitrary bytes.
pub fn tables(bytes: &[u8]) {
    let (vtd, mut input) = unit(bytes);
    vtd.write(offset::RTADDR, 8, input.u64());
    vtd.write(offset::GCMD, 4, SRTP | TE);
    while !input.is_empty() {
        let requester = Bdf::from_requester_id(input.u16());
        translate(&vtd, &mut input, requester);
    }
}

/// A request.
fn translate(vtd: &Vtd, input: &mut Input<'_>, requester: Bdf) {
    let (iova, len) = (input.u64(), u64::from(input.u16()) + 1);
    let access = match input.u8() & 1 {
        0 => Access::Read,
        _ => Access::Write,
    };
    if let Ok(to) = vtd.translate(requester, iova, len, access) {
        assert!((1..=len).contains(&to.len));
        let untouched = to.gpa == iova;
        assert!(untouched || to.gpa >> vtd.config.address_bits() == 0);
        assert!(untouched || !(0xfee0_0000..0xfef0_0000).contains(&to.gpa));
    }
}

/// Scalable mode: PASID entries and page tables of arbitrary bytes behind valid tables, if they
/// are offered, with writes to all of them and invalidations between the requests.
pub fn scalable(bytes: &[u8]) {
    const TABLES: [u64; 4] = [0x1_8000, 0x1_9000, 0x1_a000, 0x1_b000];
    let (vtd, mut input) = unit(bytes);
    let poke = |at: u64, value: u64| {
        let _ = vtd
            .memory
            .write_slice(&value.to_le_bytes(), GuestAddress(at));
    };
    for table in TABLES {
        let _ = vtd.memory.write_slice(&[0; 0x1000], GuestAddress(table));
    }
    // Bus 0, its functions 0 to 7: PASIDs 0 to 7.
    let [root, contexts, directory, pasids] = TABLES;
    poke(root, contexts | 1);
    poke(directory, pasids | 1);
    for function in 0..8 {
        poke(contexts + function * 32, directory | 1);
        poke(contexts + function * 32 + 8, function);
        let (kind, low) = (u64::from(input.u8()), u64::from(input.u16()));
        let page = |number: u16| u64::from(number & 0x1f) << 12;
        poke(
            pasids + function * 64,
            page(low as u16) | (kind & 0x7f) << 2 | 1,
        );
        poke(pasids + function * 64 + 8, low & 3);
        poke(pasids + function * 64 + 16, page(input.u16()) | kind >> 6);
    }
    vtd.write(offset::IQA, 8, QUEUE | 1 << 11);
    vtd.write(offset::RTADDR, 8, root | 1 << 10);
    vtd.write(offset::GCMD, 4, SRTP);
    vtd.write(offset::GCMD, 4, TE | QIE);
    while !input.is_empty() {
        let what = input.u8();
        match what >> 4 {
            0..=10 => translate(&vtd, &mut input, Bdf::new(0, 0, what & 7)),
            11..=13 => poke((u64::from(input.u32()) % RAM as u64) & !7, input.u64()),
            _ => {
                let low = input.u64() & 0x000f_ffff_ffff_0030 | u64::from(what & 7);
                for (at, quad) in (QUEUE..).step_by(8).zip([low, input.u64(), 0, 0]) {
                    poke(at, quad);
                }
                vtd.write(offset::GCMD, 4, TE);
                vtd.write(offset::IQT, 8, 32);
                vtd.write(offset::GCMD, 4, TE | QIE);
                vtd.write(offset::FSTS, 4, 0x10);
            }
        }
    }
}

/// An interrupt table of arbitrary bytes, and arbitrary requests.
pub fn entries(bytes: &[u8]) {
    let (vtd, mut input) = unit(bytes);
    vtd.write(offset::IRTA, 8, u64::from(input.u32()));
    let command = if input.u8() & 1 == 0 { IRE } else { IRE | CFI };
    vtd.write(offset::GCMD, 4, SIRTP | command);
    let remaps = vtd.read(offset::GSTS, 4) & IRE != 0;
    while !input.is_empty() {
        let requester = Bdf::from_requester_id(input.u16());
        let low = u64::from(input.u32());
        let address = match input.u8() {
            0 => low << 16,
            _ => 0xfee0_0000 | low & 0xf_ffff,
        };
        let data = u32::from(input.u16());
        if let Ok(message) = vtd.remap(requester, MsiMessage { address, data }) {
            assert!(!remaps || message.address as u32 >> 20 == 0xfee);
        }
    }
}

/// Arbitrary register accesses, with requests in between.
pub fn registers(bytes: &[u8]) {
    let (vtd, mut input) = unit(bytes);
    while !input.is_empty() {
        let what = input.u16();
        let at = u64::from(what & 0x3ff);
        let len = [1, 2, 4, 8][usize::from(what >> 10 & 3)];
        let value = input.u64();
        match what >> 12 {
            0..=10 => vtd.write(at & !(len - 1), len as usize, value),
            11 => {
                let got = vtd.read(at, len as usize);
                assert!(len == 8 || got >> (8 * len) == 0);
            }
            12 => vtd.write(value, len as usize, at),
            13 => {
                let requester = Bdf::from_requester_id(what);
                let _ = vtd.translate(requester, value, len, Access::Write);
            }
            14 => {
                let message = MsiMessage {
                    address: 0xfee0_0000 | value & 0xf_ffff,
                    data: (value >> 32) as u32,
                };
                let _ = vtd.remap(Bdf::from_requester_id(what), message);
            }
            _ => vtd.reset(),
        }
    }
    let _ = vtd.state();
}
