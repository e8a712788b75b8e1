//! Builds the guests with the machine's gcc, each once per test run.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Freestanding 64-bit code with nothing but general registers.
const FLAGS: [&str; 20] = [
    "-m64",
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-mgeneral-regs-only",
    "-mno-red-zone",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-fno-pic",
    "-no-pie",
    "-static",
    "-nostdlib",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,norelro",
    "-T",
];

static BUILT: Mutex<Option<HashMap<String, Option<PathBuf>>>> = Mutex::new(None);

/// The kernel image of a guest; `None`, with a line that says so, where it cannot be had.
pub fn payload(name: &str) -> Option<PathBuf> {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: this machine has no /dev/kvm");
        return None;
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = built.get_or_insert_default();
    if !known.contains_key(name) {
        let image = build(name);
        known.insert(name.to_owned(), image);
    }
    let image = known[name].clone();
    if image.is_none() {
        eprintln!("skipped: this machine has no gcc to build its guest with");
    }
    image
}

/// A folder for this test program's files.
pub fn scratch() -> PathBuf {
    let program = std::env::current_exe().expect("the test has a name");
    let name = program.file_stem().expect("the test has a name");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder for files");
    folder
}

fn build(name: &str) -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let image = scratch().join(format!("{name}.elf"));
    let library = fs::read_dir(sources.join("lib")).expect("the guests' library");
    let library = library
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "c" || e == "S"));
    let output = Command::new("gcc")
        .args(FLAGS)
        .arg(sources.join("lib/guest.ld"))
        .arg("-o")
        .arg(&image)
        .args(library)
        .arg(sources.join(format!("{name}.c")))
        .output();
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("gcc: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}.c does not build:\n{said}");
            Some(image)
        }
    }
}
