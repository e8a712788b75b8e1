//! Checks of the tables as bytes, and by ACPICA's compiler where there is one.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::memory::BarDemand;
use proptest::prelude::*;

fn swizzle(device: u8, pin: u8) -> u8 {
    4 + (device + pin) % 4
}

fn tables(apic_ids: &[u32], native: Native) -> Tables {
    let layout = crate::memory::layout(8 << 30, 40, &BarDemand::default()).unwrap();
    build(&Platform {
        apic_ids,
        ioapic_id: 0,
        layout: &layout,
        pirq: swizzle,
        last_bus: 7,
        dmar: None,
        native,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The tables, found as an OS finds them, by signature.
fn walk(tables: &Tables) -> HashMap<String, Vec<u8>> {
    let image = tables.image();
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    let at = |address: u64| {
        let bytes = &image[(address - Tables::RSDP) as usize..];
        bytes[..u32_at(bytes, 4) as usize].to_vec()
    };
    let xsdt = at(u64_at(image, 24));
    let mut found = HashMap::new();
    for entry in xsdt[36..].chunks(8) {
        let table = at(u64_at(entry, 0));
        if table[..4] == *b"FACP" {
            let (facs, dsdt) = (u32_at(&table, 36), u32_at(&table, 40));
            assert_eq!(u64::from(dsdt), u64_at(&table, 140));
            assert_eq!(facs % 64, 0);
            found.insert("FACS".to_owned(), at(facs.into()));
            found.insert("DSDT".to_owned(), at(dsdt.into()));
        }
        let name = String::from_utf8(table[..4].to_vec()).unwrap();
        found.insert(name, table);
    }
    found.insert("XSDT".to_owned(), xsdt);
    for (name, table) in &found {
        assert_eq!(&table[..4], name.as_bytes());
        if name != "FACS" {
            assert_eq!(sum(table), 0, "checksum of {name}");
        }
    }
    found
}

#[test]
fn an_os_finds_every_table_with_a_good_checksum() {
    let found = walk(&tables(&[0], Native::default()));
    let mut names: Vec<_> = found.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["APIC", "DSDT", "FACP", "FACS", "MCFG", "XSDT"]);
}

#[test]
fn the_dmar_table_tells_of_the_unit_the_ioapics_requester_and_ports_for_device_tlbs() {
    let build = |interrupt_remapping, device_tlb| {
        let layout = crate::memory::layout(8 << 30, 40, &BarDemand::default()).unwrap();
        let tables = build(&Platform {
            apic_ids: &[0],
            ioapic_id: 5,
            layout: &layout,
            pirq: swizzle,
            last_bus: 7,
            dmar: Some(Dmar {
                registers: 0xfed9_0000,
                address_bits: 40,
                interrupt_remapping,
                device_tlb,
                ioapic: pci::Bdf::new(0xff, 0, 0),
            }),
            native: Native::default(),
        });
        if device_tlb {
            through_iasl(&tables);
        }
        walk(&tables).remove("DMAR").unwrap()
    };
    let dmar = build(true, false);
    assert_eq!(dmar.len(), 72);
    assert_eq!(
        (dmar[8], dmar[36], dmar[37]),
        (1, 39, 1),
        "revision, HAW, flags"
    );
    assert_eq!(dmar[38..48], [0; 10]);
    assert_eq!(
        dmar[48..56],
        [0, 0, 24, 0, 1, 0, 0, 0],
        "DRHD, INCLUDE_PCI_ALL"
    );
    assert_eq!(u64_at(&dmar, 56), 0xfed9_0000);
    assert_eq!(
        dmar[64..],
        [3, 8, 0, 0, 5, 0xff, 0, 0],
        "I/O APIC 5 is ff:00.0"
    );
    let with_atsr = build(true, true);
    assert_eq!(with_atsr.len(), 80);
    assert_eq!(with_atsr[48..72], dmar[48..]);
    assert_eq!(with_atsr[72..], [2, 0, 8, 0, 1, 0, 0, 0], "ATSR, ALL_PORTS");
    assert_eq!(build(false, false)[37], 0);
}

#[test]
fn the_fadt_tells_where_power_and_reset_are() {
    let fadt = &walk(&tables(&[0], Native::default()))["FACP"];
    assert_eq!(fadt.len(), 276);
    assert_eq!(fadt[46], 9, "SCI");
    assert_eq!(u32_at(fadt, 48), 0, "no SMI command port: always ACPI");
    assert_eq!(
        (u32_at(fadt, 56), u32_at(fadt, 64), u32_at(fadt, 76)),
        (0x600, 0x604, 0x608)
    );
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!((u32_at(fadt, 80), fadt[92]), (0x620, 16), "GPE0");
    let wide = |at: usize| (fadt[at], fadt[at + 1], u64_at(fadt, at + 4));
    assert_eq!(
        [148, 172, 208, 220].map(wide),
        [
            (1, 32, 0x600),
            (1, 16, 0x604),
            (1, 32, 0x608),
            (1, 128, 0x620)
        ]
    );
    assert_ne!(u32_at(fadt, 112) & 1 << 10, 0, "RESET_REG_SUP");
    assert_eq!(
        u32_at(fadt, 112) & 1 << 4,
        0,
        "the power button is the fixed one"
    );
    assert_eq!((fadt[116], u64_at(fadt, 120), fadt[128]), (1, 0xcf9, 6));
}

#[test]
fn the_madt_tells_every_cpu_and_the_overrides() {
    let ids: Vec<u32> = (0..256).chain([300]).collect();
    let madt = &walk(&tables(&ids, Native::default()))["APIC"];
    assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xfee0_0000, 1));
    let (mut at, mut cpus, mut overrides, mut nmi) = (44, Vec::new(), Vec::new(), 0);
    while at < madt.len() {
        let entry = &madt[at..at + usize::from(madt[at + 1])];
        match entry[0] {
            0 => cpus.push((u32::from(entry[2]), u32::from(entry[3]), u32_at(entry, 4))),
            1 => assert_eq!(u32_at(entry, 4), 0xfec0_0000),
            2 => overrides.push((entry[3], u32_at(entry, 4), entry[8])),
            4 | 10 => nmi += 1,
            9 => cpus.push((u32_at(entry, 12), u32_at(entry, 4), u32_at(entry, 8))),
            other => panic!("type {other}"),
        }
        at += entry.len();
    }
    let want: Vec<_> = (0..).zip(ids).map(|(uid, id)| (uid, id, 1)).collect();
    assert_eq!(cpus, want);
    assert_eq!(overrides, [(0, 2, 0), (9, 9, 0xd)]);
    assert_eq!(nmi, 2);
}

#[test]
fn as_many_cpus_as_there_may_be_have_room() {
    let ids: Vec<u32> = (0..crate::config::MAX_CPUS).collect();
    let tables = tables(&ids, Native::default());
    assert!(tables.image().len() as u64 <= EXTENDED_START - BIOS_AREA);
}

#[test]
fn mcfg_covers_the_buses_there_are() {
    let mcfg = &walk(&tables(&[0], Native::default()))["MCFG"];
    assert_eq!((u64_at(mcfg, 44), mcfg[54], mcfg[55]), (0xb000_0000, 0, 7));
}

#[test]
fn tables_are_written_again_as_they_were() {
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    let tables = tables(&[0, 1], Native::default());
    for _ in 0..2 {
        tables.write(&ram).unwrap();
        let mut written = vec![0; tables.image().len()];
        ram.read_slice(&mut written, GuestAddress(Tables::RSDP))
            .unwrap();
        assert_eq!(written, tables.image());
        ram.write_slice(&[0xff; 4096], GuestAddress(Tables::RSDP))
            .unwrap();
    }
}

#[test]
fn as_many_cpus_as_a_machine_can_have_fit() {
    let ids: Vec<u32> = (0..crate::config::MAX_CPUS).collect();
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    tables(&ids, Native::default()).write(&ram).unwrap();
    let ids: Vec<u32> = (0..4096).collect();
    assert!(matches!(
        tables(&ids, Native::default()).write(&ram),
        Err(TablesError::TooLarge(_))
    ));
}

/// Runs a tool of ACPICA's in `folder`; gives what it said. `None` where there is none.
fn acpica(tool: &str, folder: &Path, arguments: &[&str]) -> Option<String> {
    let run = Command::new(tool)
        .current_dir(folder)
        .args(arguments)
        .output();
    let Ok(output) = run else {
        eprintln!("SKIPPED: no {tool} here (Debian: acpica-tools)");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some(said.into_owned())
}

/// Disassembles and compiles the tables again; gives the DSDT's source.
fn through_iasl(tables: &Tables) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, table) in walk(tables).iter().filter(|(name, _)| *name != "XSDT") {
        let (aml, asl) = (format!("{name}.aml"), format!("{name}.dsl"));
        std::fs::write(folder.path().join(&aml), table).unwrap();
        let said = acpica("iasl", folder.path(), &["-d", &aml])?;
        for bad in ["rror", "arning", "ould not", "nvalid"] {
            assert!(!said.contains(bad), "{name}: {said}");
        }
        let said = acpica("iasl", folder.path(), &["-p", "again", &asl])?;
        assert!(
            said.contains("0 Errors, 0 Warnings") || name != "DSDT" && !said.contains("rror"),
            "{name}: {said}"
        );
    }
    Some(std::fs::read_to_string(folder.path().join("DSDT.dsl")).unwrap())
}

#[test]
fn acpica_takes_the_tables_without_a_word() {
    let native = Native {
        hotplug: true,
        pme: true,
        aer: true,
    };
    let ids: Vec<u32> = (0..64).collect();
    let Some(dsdt) = through_iasl(&tables(&ids, native)) else {
        return;
    };
    for want in [
        "Device (PCI0)",
        "Device (LNKH)",
        "Device (C03F)",
        "Device (COM1)",
        "PNP0A08",
        "Name (_S5",
        "Method (_OSC, 4, Serialized)",
        "0xC0000000,         // Range Minimum",
        "0x0000000280000000, // Range Minimum",
        "0x1D",
    ] {
        assert!(dsdt.contains(want), "no {want} in\n{dsdt}");
    }
    assert!(!dsdt.contains("Device (C040)"), "{dsdt}");
}

#[test]
fn an_interpreter_runs_the_methods() {
    let folder = tempfile::tempdir().unwrap();
    let native = Native {
        hotplug: true,
        pme: true,
        aer: false,
    };
    let dsdt = &walk(&tables(&[0], native))["DSDT"];
    std::fs::write(folder.path().join("dsdt.aml"), dsdt).unwrap();
    let osc = |uuid: &str, revision: u8| {
        let wanted = "00 00 00 00 1F 00 00 00 1F 00 00 00";
        format!("execute \\_SB.PCI0._OSC ({uuid}) {revision} 3 ({wanted})")
    };
    let ours = "5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66";
    let other = "00 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66";
    let run = |commands: &[&str]| {
        let commands = format!("{}; quit", commands.join("; "));
        acpica("acpiexec", folder.path(), &["-b", &commands, "dsdt.aml"])
    };
    for (commands, want) in [
        // The OS wants everything (0x1f) and is granted what there is (0x15), and told so.
        (
            &[osc(ours, 1).as_str()][..],
            "10 00 00 00 1F 00 00 00 15 00 00 00",
        ),
        (&[&osc(ours, 2)], "18 00 00 00 1F 00 00 00 15 00 00 00"),
        (&[&osc(other, 1)], "04 00 00 00 1F 00 00 00 1F 00 00 00"),
        // In APIC mode device 0's INTA is GSI 20 by the routing given. (The tool's
        // buffer is too small for what PIC mode returns.)
        (
            &["execute \\_PIC 1", "execute \\_SB.PCI0._PRT"],
            "= 0000000000000014",
        ),
        // A link is set and says so; disabled, it has no interrupt.
        (
            &[
                "execute \\_SB.LNKE._SRS (89 06 00 09 01 0A 00 00 00 79 00)",
                "execute \\_SB.LNKE._CRS",
            ],
            "89 06 00 09 01 0A 00 00 00 79 00",
        ),
        (
            &["execute \\_SB.LNKE._DIS", "execute \\_SB.LNKE._STA"],
            "= 0000000000000009",
        ),
        (
            &["execute \\_SB.LNKE._DIS", "execute \\_SB.LNKE._CRS"],
            "89 06 00 09 01 00 00 00 00 79 00",
        ),
        // A processor idles by HLT and says so: fixed hardware, kind C1.
        (
            &["execute \\_SB.C000._CST"],
            "82 0C 00 7F 00 00 00 00 00 00 00",
        ),
    ] {
        let Some(said) = run(commands) else { return };
        assert!(
            said.contains(want),
            "no {want} after {commands:?} in\n{said}"
        );
    }
}

proptest! {
    #[test]
    fn every_pin_of_every_device_is_routed(seed: u8) {
        // The routing is a function pointer, so the variety comes from the windows.
        let mib = 16 + u64::from(seed) * 97;
        let layout = crate::memory::layout(mib << 20, 40, &BarDemand::default()).unwrap();
        let tables = build(&Platform {
            apic_ids: &[0],
            ioapic_id: 0,
            layout: &layout,
            pirq: |device, pin| device ^ pin,
            last_bus: seed,
            dmar: None,
            native: Native::default(),
        });
        walk(&tables);
    }
}
