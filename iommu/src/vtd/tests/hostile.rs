//! Arbitrary bytes, and attacks by name.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fuzz;
use super::*;

proptest! {
    #[test]
    fn queues_of_random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        fuzz::queue(&bytes);
    }

    #[test]
    fn queues_of_nearly_valid_descriptors_do_no_harm(
        flags in any::<u8>(),
        descriptors in vec((0_u64..10, any::<u64>(), any::<u64>(), any::<[bool; 2]>()), 1..40),
    ) {
        let mut bytes = vec![flags];
        for (kind, low, high, [plain, zero]) in descriptors {
            let low = if plain { low & 0x000f_ffff_00ff_0030 } else { low & !0xfff };
            bytes.extend((low | kind).to_le_bytes());
            bytes.extend(if zero { 0 } else { high }.to_le_bytes());
        }
        fuzz::queue(&bytes);
    }

    #[test]
    fn tables_of_random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        fuzz::tables(&bytes);
    }

    #[test]
    fn tables_of_nearly_valid_entries_do_no_harm(
        flags in any::<u8>(),
        root in 0_u64..32,
        entries in vec((0_u64..34, any::<u16>()), 1..80),
    ) {
        // Small page numbers, so that entries point at each other.
        let mut bytes = vec![flags];
        bytes.extend((root << 12).to_le_bytes());
        for (page, low) in entries {
            bytes.extend((page << 12 | u64::from(low & 0x87)).to_le_bytes());
        }
        fuzz::tables(&bytes);
    }

    #[test]
    fn scalable_tables_of_random_bytes_do_no_harm(
        flags in 0_u8..128,
        bytes in vec(any::<u8>(), 0..900),
    ) {
        let mut all = vec![flags | 128];
        all.extend(bytes);
        fuzz::scalable(&all);
    }

    #[test]
    fn scalable_tables_of_nearly_valid_entries_do_no_harm(
        flags in 0_u8..128,
        pasids in vec((any::<u8>(), any::<u16>(), any::<u16>()), 8),
        entries in vec((0_u64..32, any::<u16>()), 1..80),
    ) {
        // What comes after the PASID entries is both the tables, again and again, and requests.
        let mut bytes = vec![flags | 128];
        for (kind, low, first) in pasids {
            bytes.push(kind & 0x47);
            bytes.extend(low.to_le_bytes());
            bytes.extend(first.to_le_bytes());
        }
        for (page, low) in entries {
            bytes.extend((page << 12 | u64::from(low & 0xe7)).to_le_bytes());
        }
        fuzz::scalable(&bytes);
    }

    #[test]
    fn interrupt_entries_of_random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        fuzz::entries(&bytes);
    }

    #[test]
    fn random_register_accesses_do_no_harm(bytes in vec(any::<u8>(), 0..2000)) {
        fuzz::registers(&bytes);
    }
}

#[test]
fn a_wait_cannot_make_the_queue_endless() {
    // Every wait writes over the queue itself.
    let rig = Rig::new();
    rig.enable_queue();
    for i in 0..255 {
        rig.poke(QUEUE + i * 16, 5 | 1 << 5 | 5 << 32);
        rig.poke(QUEUE + i * 16 + 8, QUEUE + (i + 1) % 255 * 16);
    }
    rig.w64(offset::IQT, 255 * 16);
    assert!(rig.r64(offset::IQH) <= 255 * 16);
}
