//! Boots of made-up kernels: what lands where in guest memory.

use std::fs;
use std::path::PathBuf;

use linux_loader::bootparam::boot_params;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::*;
use crate::memory::BarDemand;
use proptest::prelude::*;

const RSDP: u64 = 0xe_0000;

pub struct Guest {
    folder: tempfile::TempDir,
    pub ram: GuestRam,
    layout: Layout,
}

impl Guest {
    pub fn new(mib: usize) -> Self {
        let size = mib << 20;
        Self {
            folder: tempfile::tempdir().unwrap(),
            ram: GuestRam::from_ranges(&[(GuestAddress(0), size)]).unwrap(),
            layout: crate::memory::layout(size as u64, 40, &BarDemand::default()).unwrap(),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn images(&self, kernel: &[u8], initrd: Option<&[u8]>) -> Images {
        let initrd = initrd.map(|bytes| self.file("initrd", bytes));
        Images::open(&self.file("kernel", kernel), initrd.as_deref()).unwrap()
    }

    pub fn load(&self, images: &Images, cmdline: &str) -> Result<Entry, BootError> {
        load(images, cmdline, &self.ram, &self.layout, RSDP)
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn error(&self, kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> String {
        let error = self
            .load(&self.images(kernel, initrd), cmdline)
            .unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }
}

/// A bzImage of one setup sector whose body is `body`.
pub fn bzimage(body: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x200, &[0xeb, 0x6a]); // jump: header ends at 0x26c
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: LOADED_HIGH
    put(0x214, &0x10_0000u32.to_le_bytes()); // code32_start
    put(0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
    put(0x234, &[1]); // relocatable
    put(0x236, &3u16.to_le_bytes()); // xloadflags
    put(0x238, &2047u32.to_le_bytes()); // cmdline_size
    put(0x258, &0x100_0000u64.to_le_bytes()); // pref_address
    put(0x260, &0x80_0000u32.to_le_bytes()); // init_size
    file.extend(body);
    file
}

/// An ELF file of segments (address, bytes, size in memory) and note segments.
pub fn elf(segments: &[(u64, &[u8], u64)], notes: &[Vec<u8>]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[18..20].copy_from_slice(&62u16.to_le_bytes());
    file[32..40].copy_from_slice(&64u64.to_le_bytes()); // e_phoff
    file[54..56].copy_from_slice(&56u16.to_le_bytes());
    let count = segments.len() + notes.len();
    file[56..58].copy_from_slice(&(count as u16).to_le_bytes());
    let mut data_at = 64 + 56 * count as u64;
    let mut data: Vec<u8> = Vec::new();
    let loads = segments
        .iter()
        .map(|(at, bytes, size)| (1u32, *at, *bytes, *size));
    let notes = notes
        .iter()
        .map(|n| (4u32, 0, n.as_slice(), n.len() as u64));
    for (kind, at, bytes, size) in loads.chain(notes) {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for field in [data_at, at, at, bytes.len() as u64, size, 4] {
            file.extend(field.to_le_bytes());
        }
        data.extend(bytes);
        data_at += bytes.len() as u64;
    }
    file.extend(data);
    file
}

fn note(owner: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let words = [owner.len() as u32, desc.len() as u32, kind];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    for part in [owner, desc] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

pub fn pvh_note(entry: u32) -> Vec<u8> {
    note(b"Xen\0", 18, &entry.to_le_bytes())
}

#[test]
fn a_bzimage_is_loaded_where_it_prefers_with_all_that_goes_with_it() {
    let guest = Guest::new(64);
    let images = guest.images(&bzimage(b"the kernel"), Some(&[7; 5000]));
    let entry = guest.load(&images, "console=ttyS0 root=/dev/sda").unwrap();
    let want = Protocol::Long64 {
        rip: 0x100_0200,
        rsi: 0x7000,
    };
    assert_eq!(entry.protocol, want);
    assert_eq!(guest.bytes(0x100_0000, 10), b"the kernel");

    let mut params = boot_params::default();
    params
        .as_mut_slice()
        .copy_from_slice(&guest.bytes(0x7000, 4096));
    let h = params.hdr;
    let (cmdline, loader, magic) = (h.cmd_line_ptr, h.type_of_loader, h.header);
    assert_eq!((loader, magic), (0xff, 0x5372_6448));
    assert_eq!(
        guest.bytes(cmdline.into(), 28),
        b"console=ttyS0 root=/dev/sda\0"
    );
    let (start, size) = (h.ramdisk_image, h.ramdisk_size);
    assert_eq!((start, size), ((64 << 20) - 8192, 5000));
    assert_eq!(guest.bytes(start.into(), 5000), [7; 5000]);
    assert_eq!({ params.acpi_rsdp_addr }, RSDP);
    assert_eq!(
        usize::from(params.e820_entries),
        guest.layout.memory_map().len()
    );
    let first = params.e820_table[0];
    assert_eq!(
        ({ first.addr }, { first.size }, { first.r#type }),
        (0, 0x9_fc00, 1)
    );
}

#[test]
fn a_kernel_moves_down_when_memory_is_small_and_it_can() {
    let guest = Guest::new(16);
    let mut file = bzimage(b"x");
    let entry = guest.load(&guest.images(&file, None), "").unwrap();
    assert_eq!(entry.regs().rip, 0x20_0200);
    file[0x234] = 0;
    assert!(
        guest
            .error(&file, None, "")
            .ends_with("needs memory up to 24M to start; use more --memory")
    );
}

#[test]
fn fields_beyond_the_kernels_header_are_not_taken_from_its_code() {
    let guest = Guest::new(64);
    let mut file = bzimage(b"x");
    file[0x201] = 0x62; // header ends at 0x264, before handover_offset
    file[0x264..0x280].fill(0xcc);
    guest.load(&guest.images(&file, None), "").unwrap();
    assert_eq!(guest.bytes(0x7264, 0x1c), [0; 0x1c]);
}

#[test]
fn limits_of_a_bzimage_are_told() {
    let guest = Guest::new(64);
    let long = "x".repeat(2048);
    assert_eq!(
        guest.error(&bzimage(b"x"), None, &long),
        "--cmdline: it has 2048 bytes and this kernel takes at most 2047"
    );
    let big = vec![0; 50 << 20];
    let error = guest.error(&bzimage(b"x"), Some(&big), "");
    assert!(
        error.starts_with("--initrd ") && error.ends_with("use more --memory"),
        "{error}"
    );
    let mut low = bzimage(b"x");
    low[0x22c..0x230].copy_from_slice(&0x1ff_ffffu32.to_le_bytes());
    guest.load(&guest.images(&low, Some(b"r")), "").unwrap();
    assert_eq!(guest.bytes(0x1ff_f000, 1), b"r");
    let mut old = bzimage(b"x");
    old[0x236] = 2;
    assert!(guest.error(&old, None, "").contains("has no 64-bit entry"));
}

#[test]
fn other_files_are_no_kernels() {
    let guest = Guest::new(64);
    for file in [&b""[..], b"#!/bin/sh", &[0; 4096]] {
        assert!(
            guest
                .error(file, None, "")
                .contains("neither a bzImage nor an ELF file")
        );
    }
    let mut short = bzimage(b"");
    short.truncate(0x210);
    assert!(guest.error(&short, None, "").ends_with("cannot read it"));
    let error = Images::open("/nowhere".as_ref(), None).unwrap_err();
    assert_eq!(error.to_string(), "--kernel /nowhere: cannot open it");
}

#[test]
fn a_pvh_kernel_finds_everything_through_its_start_info() {
    let guest = Guest::new(32);
    let notes = [
        note(b"GNU\0", 3, &[1; 16]),
        pvh_note(0x10_0010),
        note(b"GNU\0", 5, &[0; 8]),
    ];
    let file = elf(
        &[(0x10_0000, b"code", 4), (0x20_0000, b"data", 0x2_0000)],
        &notes,
    );
    let entry = guest
        .load(&guest.images(&file, Some(b"disk")), "quiet")
        .unwrap();
    assert_eq!(
        entry.protocol,
        Protocol::Pvh {
            rip: 0x10_0010,
            rbx: 0x6000
        }
    );
    assert_eq!(guest.bytes(0x20_0000, 6), b"data\0\0");

    let word = |at: u64| u64::from(guest.ram.read_obj::<u32>(GuestAddress(at)).unwrap());
    let long = |at: u64| guest.ram.read_obj::<u64>(GuestAddress(at)).unwrap();
    assert_eq!(
        (word(0x6000), word(0x6004), word(0x600c)),
        (0x336e_c578, 1, 1)
    );
    let module = long(0x6010);
    assert_eq!((long(module), long(module + 8)), ((32 << 20) - 4096, 4));
    assert_eq!(guest.bytes(long(module), 4), b"disk");
    assert_eq!(guest.bytes(long(0x6018), 6), b"quiet\0");
    assert_eq!(long(0x6020), RSDP);
    let map = long(0x6028);
    assert_eq!(word(0x6030), guest.layout.memory_map().len() as u64);
    assert_eq!((long(map), long(map + 8), word(map + 16)), (0, 0x9_fc00, 1));
}

#[test]
fn a_second_load_is_as_the_first_on_used_memory() {
    let guest = Guest::new(32);
    let file = elf(
        &[(0x10_0000, b"code", 0x1_2345), (0x30_0000, b"", 64)],
        &[pvh_note(0x10_0000)],
    );
    let images = guest.images(&file, Some(b"disk"));
    let first = guest.load(&images, "a").unwrap();
    let fresh = guest.bytes(0, 32 << 20);
    // The guest runs, and somebody replaces the file's name.
    for at in [0x5000, 0x6000, 0x2_0000, 0x10_0000, 0x30_0000, 0x1ff_f000] {
        guest
            .ram
            .write_slice(&[0xaa; 0x30], GuestAddress(at))
            .unwrap();
    }
    guest
        .ram
        .write_slice(&vec![0xaa; 0x1_2341], GuestAddress(0x10_0004))
        .unwrap();
    fs::remove_file(guest.folder.path().join("kernel")).unwrap();
    assert_eq!(guest.load(&images, "a").unwrap(), first);
    let again = guest.bytes(0x10_0000, 0x1_2345);
    assert_eq!(again, fresh[0x10_0000..0x11_2345]);
    assert_eq!(guest.bytes(0x30_0000, 64), [0; 64]);
    assert_eq!(guest.bytes(0x1ff_f000, 4), b"disk");
    assert_eq!(guest.bytes(0x6000, 56), fresh[0x6000..0x6038]);
}

#[test]
fn elf_files_that_cannot_boot_are_told_why() {
    let guest = Guest::new(32);
    let segment = (0x10_0000u64, &b"code"[..], 4u64);
    let none = elf(&[segment], &[note(b"GNU\0", 3, &[1; 16])]);
    assert!(
        guest
            .error(&none, None, "")
            .contains("without a PVH entry note")
    );
    let low = elf(&[(0x7000, b"code", 4)], &[pvh_note(0x7000)]);
    assert!(
        guest
            .error(&low, None, "")
            .contains("segment at 0x7000 lies where boot data goes")
    );
    let bios = elf(&[(0xd_0000, b"code", 0x2_0000)], &[pvh_note(0xd_0000)]);
    assert!(guest.error(&bios, None, "").contains("the ACPI tables go"));
    let huge = elf(&[(0x10_0000, b"code", u64::MAX)], &[pvh_note(0x10_0000)]);
    assert!(guest.error(&huge, None, "").contains("use more --memory"));
    let mut narrow = elf(&[segment], &[pvh_note(0x10_0000)]);
    narrow[4] = 1;
    assert!(
        guest
            .error(&narrow, None, "")
            .contains("objcopy -O elf64-x86-64")
    );
    let mut cut = elf(&[segment], &[pvh_note(0x10_0000)]);
    cut.truncate(100);
    assert!(guest.error(&cut, None, "").ends_with("cannot read it"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn damaged_files_are_refused_or_loaded_but_never_panic(
        is_elf: bool,
        damage in proptest::collection::vec((0usize..1400, any::<u8>()), 1..12),
        cut in 0usize..1600,
    ) {
        let guest = Guest::new(16);
        let segment = (0x10_0000u64, &[0x90u8; 64][..], 4096u64);
        let mut file = match is_elf {
            true => elf(&[segment], &[pvh_note(0x10_0000), note(b"GNU\0", 3, &[1; 16])]),
            false => bzimage(&[0x90; 512]),
        };
        for (at, byte) in damage {
            let at = at % file.len();
            file[at] = byte;
        }
        file.truncate(cut.max(8));
        let _ = guest.load(&guest.images(&file, None), "quiet");
    }
}
