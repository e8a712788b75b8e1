//! Guests that mean harm: whatever they do, Sluice goes on, and ends when they power off.

use std::path::Path;

use crate::disk::Image;
use crate::guest::{Ended, Guest, in_company};
use crate::net;

const SEEDS: [u64; 3] = [1, 20_251_120, 0xdead_beef];

fn poke(what: &str, rounds: u32, more: &[&str]) {
    let _turn = in_company();
    net::with_tap(|tap| {
        for seed in SEEDS {
            let image = Image::new(&format!("{what}-{seed}-{}.img", more.len()), 256);
            let cmdline = format!("what={what} seed={seed} rounds={rounds}");
            let (disk, net) = (image.flag(), tap.flag());
            let flags = [&["--disk", &disk, "--net", &net], more].concat();
            let Some(guest) = Guest::start("hostile", &cmdline, &flags) else {
                return;
            };
            survived(&cmdline, guest.wait());
            assert!(Path::new(&image.path()).exists());
        }
    });
}

/// The guest did its worst, reset the machine, found it as new, and did it again.
fn survived(what: &str, ended: Ended) {
    let Ended {
        status,
        output,
        errors,
        ..
    } = ended;
    assert!(status.success(), "{what}: {status}\n{output}\n{errors}");
    let survived = output.matches("PASS survived").count();
    assert_eq!(survived, 2, "{what}:\n{output}\n{errors}");
    let fresh = output.contains("PASS fresh") && output.ends_with("DONE\n");
    assert!(fresh, "{what}:\n{output}\n{errors}");
    assert!(!errors.contains("panicked"), "{what}:\n{errors}");
}

#[test]
fn random_ports() {
    poke("ports", 4000, &[]);
}

#[test]
fn random_memory() {
    poke("memory", 4000, &[]);
}

/// Its registers are among what is poked, its tables are whatever they then are.
#[test]
fn random_memory_with_a_vtd() {
    poke("memory", 4000, &["--iommu", "vtd"]);
}

#[test]
fn random_config() {
    poke("config", 4000, &[]);
}
