//! How the first vCPU enters the guest, as register values.

use devices::dma::GuestRam;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, place};

/// The state a protocol promises, beyond the registers that differ per kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum Protocol {
    /// Linux's 64-bit protocol: long mode, the low 4 GiB mapped to themselves.
    Long64 {
        /// The kernel's 64-bit entry.
        rip: u64,
        /// The zero page.
        rsi: u64,
    },
    /// PVH: 32-bit protected mode, paging off.
    Pvh {
        /// The entry of the PVH note.
        rip: u64,
        /// The start info.
        rbx: u64,
    },
}

/// How the first vCPU enters the guest. The GDT and page tables that go with it are in
/// guest memory already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Entry {
    /// Protocol and entry point.
    pub protocol: Protocol,
}

/// Bits of CR0, CR4 and EFER (Intel SDM vol. 3A §2.5, §2.2.1) and RFLAGS.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_ALWAYS: u64 = 1 << 1;

/// Selectors that boot.rst asks for (`__BOOT_CS`, `__BOOT_DS`) and one for the TSS.
const SELECTOR_CODE: u16 = 0x10;
const SELECTOR_DATA: u16 = 0x18;
const SELECTOR_TSS: u16 = 0x20;
const GDT_ENTRIES: u16 = 5;

/// Segment types (Intel SDM vol. 3A §3.4.5.1, §3.5).
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_TSS_BUSY: u8 = 0xb;

/// Page table entry bits (Intel SDM vol. 3A §4.5).
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
const PAGE: u64 = 0x1000;
const DIRECTORIES: u64 = 4;

/// Writes what the entry needs in memory.
pub(super) fn prepare(protocol: Protocol, ram: &GuestRam) -> Result<Entry, BootError> {
    let entry = Entry { protocol };
    let segments = [None, None, Some(entry.code()), Some(data()), Some(tss())];
    let gdt = segments.map(|segment| segment.as_ref().map_or(0, descriptor));
    let bytes: Vec<u8> = gdt.iter().flat_map(|d| d.to_le_bytes()).collect();
    ram.write_slice(&bytes, GuestAddress(place::GDT))?;
    if matches!(protocol, Protocol::Long64 { .. }) {
        page_tables(ram)?;
    }
    Ok(entry)
}

/// Maps the low 4 GiB to themselves in 2 MiB pages.
fn page_tables(ram: &GuestRam) -> Result<(), BootError> {
    let (pml4, pdpt) = (place::PAGE_TABLES, place::PAGE_TABLES + PAGE);
    let directory = |n: u64| pdpt + PAGE * (n + 1);
    let table = |at: u64, entries: &mut dyn Iterator<Item = u64>| {
        let mut bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        bytes.resize(PAGE as usize, 0);
        ram.write_slice(&bytes, GuestAddress(at))
    };
    table(pml4, &mut std::iter::once(pdpt | PRESENT_WRITABLE))?;
    table(
        pdpt,
        &mut (0..DIRECTORIES).map(|n| directory(n) | PRESENT_WRITABLE),
    )?;
    for n in 0..DIRECTORIES {
        let pages = n * 512..(n + 1) * 512;
        table(
            directory(n),
            &mut pages.map(|p| p << 21 | LARGE | PRESENT_WRITABLE),
        )?;
    }
    Ok(())
}

impl Entry {
    /// General registers: all zero but those of the protocol.
    pub fn regs(&self) -> kvm_regs {
        let regs = kvm_regs {
            rflags: RFLAGS_ALWAYS,
            ..Default::default()
        };
        match self.protocol {
            Protocol::Long64 { rip, rsi } => kvm_regs { rip, rsi, ..regs },
            Protocol::Pvh { rip, rbx } => kvm_regs { rip, rbx, ..regs },
        }
    }

    /// `sregs` (of a vCPU just reset) with the mode, segments and tables of the protocol.
    pub fn sregs(&self, mut sregs: kvm_sregs) -> kvm_sregs {
        sregs.cs = self.code();
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *segment = data();
        }
        sregs.tr = tss();
        sregs.gdt = kvm_dtable {
            base: place::GDT,
            limit: GDT_ENTRIES * 8 - 1,
            ..Default::default()
        };
        sregs.idt = kvm_dtable::default();
        match self.protocol {
            Protocol::Long64 { .. } => {
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.cr3 = place::PAGE_TABLES;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
            }
            Protocol::Pvh { .. } => {
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr3 = 0;
                sregs.cr4 = 0;
                sregs.efer = 0;
            }
        }
        sregs
    }

    fn code(&self) -> kvm_segment {
        let long = matches!(self.protocol, Protocol::Long64 { .. });
        kvm_segment {
            selector: SELECTOR_CODE,
            type_: TYPE_CODE,
            l: u8::from(long),
            db: u8::from(!long),
            ..data()
        }
    }
}

/// A flat, writable data segment.
fn data() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: SELECTOR_DATA,
        type_: TYPE_DATA,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// A TSS, which every mode but real mode must have.
fn tss() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0x67,
        selector: SELECTOR_TSS,
        type_: TYPE_TSS_BUSY,
        present: 1,
        ..Default::default()
    }
}

/// A segment as a descriptor (Intel SDM vol. 3A §3.4.5).
fn descriptor(s: &kvm_segment) -> u64 {
    let limit = u64::from(if s.g != 0 { s.limit >> 12 } else { s.limit });
    let access = u64::from(s.type_) | u64::from(s.s) << 4 | u64::from(s.present) << 7;
    let flags = u64::from(s.l) << 1 | u64::from(s.db) << 2 | u64::from(s.g) << 3;
    limit & 0xffff | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_well_known_ones() {
        let long = Entry {
            protocol: Protocol::Long64 { rip: 0, rsi: 0 },
        };
        let flat = Entry {
            protocol: Protocol::Pvh { rip: 0, rbx: 0 },
        };
        assert_eq!(descriptor(&long.code()), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&flat.code()), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn long_mode_is_whole() {
        let entry = Entry {
            protocol: Protocol::Long64 {
                rip: 0x100_0200,
                rsi: 0x7000,
            },
        };
        let sregs = entry.sregs(kvm_sregs {
            apic_base: 0xfee0_0900,
            ..Default::default()
        });
        assert_eq!(sregs.efer, 0x500);
        assert_eq!(sregs.cr0, 0x8000_0011);
        assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
        assert_eq!(
            sregs.apic_base, 0xfee0_0900,
            "what is not the protocol's stays"
        );
        assert_eq!((entry.regs().rip, entry.regs().rsi), (0x100_0200, 0x7000));
        assert_eq!(entry.regs().rflags, 2, "interrupts off");
    }

    #[test]
    fn page_tables_map_four_gigabytes_to_themselves() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        prepare(Protocol::Long64 { rip: 0, rsi: 0 }, &ram).unwrap();
        let entry = |at: u64| ram.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0u64, 0x100_0200, 0x7fff_ffff, 0xfee0_0030, 0xffff_ffff] {
            let pdpt = entry(place::PAGE_TABLES) & !0xfff;
            let directory = entry(pdpt + (address >> 30) * 8) & !0xfff;
            let page = entry(directory + (address >> 21 & 511) * 8);
            assert_eq!(page & 0x83, 0x83);
            assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
        }
        assert_eq!(entry(place::PAGE_TABLES + 8), 0);
    }
}
