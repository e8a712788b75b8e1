//! Config spaces of real devices as their guests see them.
//!
//! `dumps/NAME.txt` is a device as `lspci -xxxx` shows it on the host, without its lines of
//! zeros, and `dumps/NAME.guest.txt` what the guest must see of it: first its capabilities as
//! ID and place, then the bytes. A test that fails shows what it saw in the same form.

use std::fmt::Write;

use super::config::{extended_list, list};
use super::*;
use crate::vfio::fake::parse_dump;

/// A device from its dump, with interrupts as its capabilities say.
fn device(dump: &str, bars: &[(u8, u64)]) -> Rig {
    let mut hardware = FakeBackend::new(dump, &[]);
    for &(bar, size) in bars {
        hardware.add_hollow_bar(bar, size);
    }
    // The kernel takes these from the capabilities.
    hardware.msi.count = 32;
    hardware.intx.count = 1;
    hardware.msix = IrqInfo {
        count: 2048,
        growable: true,
    };
    Rig::new(hardware)
}

fn seen(rig: &Rig) -> String {
    let mut text = String::from("capabilities");
    for (id, at) in list(rig) {
        write!(text, " {id:02x}@{at:02x}").unwrap();
    }
    text.push_str("\nextended");
    for (id, at) in extended_list(rig) {
        write!(text, " {id:04x}@{at:03x}").unwrap();
    }
    text.push('\n');
    for line in (0..0x1000).step_by(16) {
        let bytes: Vec<u8> = (line..line + 16)
            .step_by(4)
            .flat_map(|at| rig.read(at).to_le_bytes())
            .collect();
        if bytes.iter().any(|&byte| byte != 0) {
            write!(text, "{line:02x}:").unwrap();
            bytes
                .iter()
                .for_each(|byte| write!(text, " {byte:02x}").unwrap());
            text.push('\n');
        }
    }
    text
}

macro_rules! golden {
    ($test:ident, $name:literal, $bars:expr) => {
        #[test]
        fn $test() {
            let rig = device(include_str!(concat!("dumps/", $name, ".txt")), $bars);
            let seen = seen(&rig);
            let wanted = include_str!(concat!("dumps/", $name, ".guest.txt"));
            assert!(seen == wanted, "{} is seen as\n{seen}", $name);
            assert_eq!(parse_dump(&seen), parse_dump(wanted));
        }
    };
}

golden!(a_virtual_function, "82576-vf", &[(0, 0x4000), (3, 0x4000)]);
golden!(an_nvme_controller, "samsung-nvme", &[(0, 0x4000)]);
golden!(
    a_graphics_adapter,
    "nvidia-gpu",
    &[(0, 16 << 20), (1, 256 << 20), (3, 32 << 20), (5, 128)]
);
golden!(its_audio_function, "nvidia-audio", &[(0, 0x4000)]);
golden!(
    a_graphics_adapter_with_resizable_bars,
    "amd-gpu",
    &[(0, 16 << 30), (2, 2 << 20), (4, 256), (5, 1 << 20)]
);
golden!(
    a_physical_function_with_virtual_ones,
    "i350",
    &[(0, 0x10_0000), (3, 0x4000)]
);
