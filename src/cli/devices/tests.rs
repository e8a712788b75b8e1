//! What is shown of a server, compared with files.

use super::*;
use crate::cli::golden::assert_golden;
use crate::host::fake_server::server;
use crate::host::fake_tree::FakeTree;

fn shown(tree: &FakeTree, only: &[&str], json: bool, width: Option<usize>) -> String {
    let what = Devices {
        only: only
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        json,
    };
    devices(&tree.host(), &what, Page::of_width(width)).unwrap()
}

#[test]
fn the_table_fits_its_page() {
    let server = server();
    for (name, columns) in [
        ("devices-80.txt", 80),
        ("devices-120.txt", 120),
        ("devices-200.txt", 200),
    ] {
        let text = shown(&server, &[], false, Some(columns));
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(columns), "{widest:?} of {columns}:\n{text}");
        assert_golden(name, &text);
    }
    assert_golden("devices-pipe.txt", &shown(&server, &[], false, None));
}

#[test]
fn a_device_in_full() {
    let only = ["0000:03:00.0", "03:10.0", "04:00.0", "05:00.0", "00:02.0"];
    assert_golden(
        "devices-detail.txt",
        &shown(&server(), &only, false, Some(80)),
    );
}

#[test]
fn everything_as_json() {
    let server = server();
    let text = shown(&server, &[], true, Some(80));
    assert_golden("devices.json", &text);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), server.host().functions().unwrap().len());
    let names = |device: &serde_json::Value| -> Vec<String> {
        device.as_object().unwrap().keys().cloned().collect()
    };
    for device in all {
        assert_eq!(names(device), names(&all[0]), "every name, always");
    }
    let some = shown(&server, &["03:10.0"], true, None);
    let some: serde_json::Value = serde_json::from_str(&some).unwrap();
    assert_eq!(some[0]["address"], "0000:03:10.0");
    assert_eq!(some.as_array().map(Vec::len), Some(1));
}

#[test]
fn a_host_without_iommu_or_without_pci() {
    let tree = FakeTree::new();
    assert_eq!(
        shown(&tree, &[], false, None),
        "this host has no PCI devices\n"
    );
    assert_eq!(shown(&tree, &[], true, None), "[]\n");
    tree.add(&crate::host::fake_tree::FakeFunction::at("0000:02:10.0"));
    let text = shown(&tree, &[], false, Some(100));
    assert!(
        text.contains("IOMMU off") && text.contains("intel_iommu=on"),
        "{text}"
    );
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let what = Devices {
        only: vec!["0f:00.0".parse().unwrap()],
        json: false,
    };
    let error = devices(&server().host(), &what, Page::of_width(None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no PCI device 0000:0f:00.0 on this host; `sluice devices` lists what there is"
    );
}
