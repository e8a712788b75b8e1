//! The VT-d unit: DMA and interrupts through it, and what they are not to reach.

use std::time::Duration;

use crate::disk::{Image, pattern};
use crate::guest::{Guest, in_company};
use crate::net::with_tap;
use crate::payload::scratch;

const SECTORS: u64 = 4096;
const EXPERIMENTAL: u16 = 0x88b5;

#[test]
fn dma_goes_where_the_guest_maps_it_and_nowhere_else() {
    let _turn = in_company();
    let image = Image::new("vtd.img", SECTORS);
    with_tap(|tap| {
        let disk = image.flag();
        let iommu = "vtd,caching-mode=on";
        let flags = ["--iommu", iommu, "--disk", &disk, "--net", &tap.flag()];
        let Some(guest) = Guest::start("vtd", &format!("sectors={SECTORS}"), &flags) else {
            return;
        };
        let frame = tap.receive(EXPERIMENTAL, Duration::from_secs(20));
        let frame = frame.unwrap_or_else(|| panic!("no frame; it said:\n{}", guest.said()));
        assert_eq!(frame.bytes.len(), 200);
        let right = |(i, byte): (usize, &u8)| i < 14 || *byte == (i * 5) as u8;
        assert!(frame.bytes.iter().enumerate().all(right));
        guest.expect("RESET\n");
        let ended = guest.passes();
        let twice = ended.output.matches("PASS a queue that is not").count();
        assert_eq!(twice, 2, "{}", ended.output);
        assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
        // What was written to disk came from the mapped pages, and nothing from elsewhere.
        assert!(image.sectors(2048, 16) == pattern(3, 16));
        assert!(image.sectors(2100, 16) == pattern(2100, 16));
    });
}

#[test]
fn interrupts_go_where_the_guests_entries_say_and_nowhere_else() {
    let _turn = in_company();
    for eim in ["off", "on"] {
        let iommu = format!("vtd,eim={eim}");
        let socket = scratch().join(format!("vtd-{eim}.ctl"));
        let control = format!("path={},ports=1", socket.display());
        let flags = ["--iommu", &iommu, "--control", &control];
        let Some(guest) = Guest::start("vtd_interrupts", "", &flags) else {
            return;
        };
        guest.passes();
    }
}
