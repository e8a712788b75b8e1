//! Dependencies point down only: `src → devices → iommu → pci`. What each crate may not
//! name is checked in its manifest and in its sources.

use std::fs;
use std::path::{Path, PathBuf};

/// A crate, the crates of ours it may use, and words that its sources may not hold.
struct Layer {
    folder: &'static str,
    may_use: &'static [&'static str],
    never_names: &'static [&'static str],
}

const OURS: [&str; 4] = ["pci", "iommu", "devices", "sluice"];

const LAYERS: [Layer; 3] = [
    Layer {
        folder: "pci",
        may_use: &[],
        never_names: &[
            "kvm_ioctls",
            "kvm_bindings",
            "vfio_ioctls",
            "std::fs",
            "std::thread",
            "std::net",
            "clap",
            "nix::",
        ],
    },
    Layer {
        folder: "iommu",
        may_use: &["pci"],
        never_names: &["kvm_ioctls", "kvm_bindings", "std::thread", "clap"],
    },
    Layer {
        folder: "devices",
        may_use: &["pci", "iommu"],
        never_names: &["kvm_ioctls", "kvm_bindings", "clap", "toml::"],
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names in a manifest's `[dependencies]` and `[dev-dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let table: toml::Table = manifest.parse().expect("a manifest is TOML");
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| table.get(*section)?.as_table())
        .flat_map(|section| section.keys().cloned())
        .collect()
}

fn rust_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// What breaks the rules of a layer, one line each.
fn violations(layer: &Layer) -> Vec<String> {
    let folder = root().join(layer.folder);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    let mut wrong: Vec<String> = dependencies(&manifest)
        .into_iter()
        .filter(|name| OURS.contains(&name.as_str()) && !layer.may_use.contains(&name.as_str()))
        .map(|name| format!("{} depends on {name}", layer.folder))
        .collect();
    let mut sources = Vec::new();
    rust_sources(&folder.join("src"), &mut sources);
    assert!(!sources.is_empty(), "{} has sources", layer.folder);
    for source in sources {
        let text = fs::read_to_string(&source).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            for word in layer
                .never_names
                .iter()
                .filter(|word| code.contains(**word))
            {
                wrong.push(format!("{}:{} names {word}", source.display(), number + 1));
            }
        }
    }
    wrong
}

#[test]
fn dependencies_point_down_only() {
    let wrong: Vec<String> = LAYERS.iter().flat_map(violations).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_what_it_looks_for() {
    let manifest = "[dependencies]\nsluice = {}\n[dev-dependencies]\nproptest = \"1\"\n";
    assert_eq!(dependencies(manifest), ["sluice", "proptest"]);
    let upside_down = Layer {
        folder: "devices",
        may_use: &[],
        never_names: &["iommu::"],
    };
    let wrong = violations(&upside_down);
    assert!(wrong.iter().any(|line| line == "devices depends on iommu"));
    assert!(wrong.iter().any(|line| line.contains("names iommu::")));
}
