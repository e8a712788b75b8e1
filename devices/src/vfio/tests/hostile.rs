//! Devices whose config space is anything, and guests that write anything to it.

use proptest::prelude::*;

use super::config::{extended_list, list};
use super::*;
use crate::vfio::backend::{RegionId, VfioBackend};
use crate::vfio::fuzz;

type Bars = Vec<(u8, u64)>;

fn device(mut config: Vec<u8>, bars: &Bars) -> FakeBackend {
    config[0x0e] &= 0x80;
    config[0] = 0x86;
    config[6] |= 0x10;
    let bars: Vec<_> = bars.iter().map(|&(bar, size)| (bar, size, true)).collect();
    let mut hardware = FakeBackend::new("", &bars);
    hardware.msi.count = 32;
    hardware.msix.count = 2048;
    hardware.poke_config(0, &config);
    hardware
}

/// Bytes that often make capabilities: random ones hardly ever do.
fn config() -> impl Strategy<Value = Vec<u8>> {
    let any = prop::collection::vec(any::<u8>(), 4096);
    let links = prop::collection::vec((16u16..64, 0u8..0x18, 16u8..64), 0..12);
    let extended = prop::collection::vec((64u16..1024, 0u16..0x38, 64u16..1024), 0..24);
    (any, links, extended).prop_map(|(mut config, links, extended)| {
        let mut next = 0x34;
        for (at, id, _) in &links {
            config[next] = (at * 4) as u8;
            config[usize::from(at * 4)] = *id;
            next = usize::from(at * 4) + 1;
        }
        if let Some((_, _, end)) = links.last() {
            config[next] = end * 4;
        }
        let mut at = 0x100;
        for (next, id, _) in &extended {
            let header = u32::from(*id) | 1 << 16 | u32::from(next * 4) << 20;
            config[at..at + 4].copy_from_slice(&header.to_le_bytes());
            at = usize::from(next * 4);
        }
        config
    })
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        fuzz::device(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_device_gives_lists_that_are_well_formed(
        config in config(),
        bars in prop::collection::vec((0u8..6, 1u64..1 << 16), 0..6),
        can_reset: bool,
    ) {
        let mut hardware = device(config, &bars);
        hardware.can_reset = can_reset;
        let rig = Rig::new(hardware);
        fuzz::check_lists(&rig.device);
        for (bar, _) in bars {
            prop_assert!(rig.hardware.region(RegionId::Bar(BarIndex(bar))).size > 0);
            rig.device.fast_paths(BarIndex(bar));
        }
    }

    /// Whatever the guest writes, the lists stay as they were, and what decodes can.
    #[test]
    fn no_write_changes_what_the_device_is(
        config in config(),
        bars in prop::collection::vec((0u8..6, 1u64..1 << 24), 0..6),
        writes in prop::collection::vec((any::<u16>(), any::<u32>(), 0u8..16), 0..200),
    ) {
        let bars: Bars = bars.into_iter().map(|(bar, size)| (bar, size.min(1 << 20))).collect();
        let rig = Rig::new(device(config, &bars));
        let (identity, lists) = (rig.read(0), (list(&rig), extended_list(&rig)));
        for (offset, value, enables) in writes {
            // Mostly where capabilities are.
            let offset = if offset & 3 == 0 { offset } else { offset & 0x1ff };
            let register = Register::containing(offset);
            rig.device.write_config(ConfigWrite::new(register, value, enables));
            rig.device.read_config(register);
            for window in rig.device.windows() {
                prop_assert!(window.base != 0 && window.base % window.size == 0);
            }
        }
        prop_assert_eq!(rig.read(0), identity);
        prop_assert_eq!((list(&rig), extended_list(&rig)), lists);
        fuzz::check_lists(&rig.device);
    }

    /// A ROM is anything, too.
    #[test]
    fn any_rom_is_shown_or_hidden(
        mut image in prop::collection::vec(any::<u8>(), 0..5000),
        points in any::<u16>(),
        structure in 0usize..0x400,
        blocks in 0u16..12,
    ) {
        if image.len() > 0x420 {
            image[..2].copy_from_slice(&[0x55, 0xaa]);
            let points = if points & 1 == 0 { structure as u16 } else { points };
            image[0x18..0x1a].copy_from_slice(&points.to_le_bytes());
            image[structure..structure + 4].copy_from_slice(b"PCIR");
            image[structure + 0x10..structure + 0x12].copy_from_slice(&blocks.to_le_bytes());
        }
        let hardware = e1000e();
        hardware.set_rom(&image);
        let rig = Rig::new(hardware);
        if let Some(region) = rig.device.region(BarIndex::ROM) {
            let mut bytes = vec![0; 0x2000];
            region.read(0, &mut bytes);
            prop_assert_eq!(&bytes[..2], &[0x55, 0xaa]);
        }
    }
}
