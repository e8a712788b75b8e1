//! Takes a fault out of the QEMU that emulates the host, without which a guest of that host hangs now and then, under
//! any monitor.
//!
//! VMRUN with an interrupt to inject (`helper_vmrun` of target/i386/tcg/system/svm_helper.c, EVENTINJ of type 0)
//! delivers it at once, and yet leaves its vector in `exception_index`. When QEMU then wants the processor out of its
//! loop for something else, before the guest's next exit, it takes the vector for an exception still to be delivered,
//! and delivers it again, interrupts enabled or not: a handler that takes a lock now waits for the code it
//! interrupted. Seen as a guest in `hrtimer_interrupt` within `hrtimer_interrupt`, EFLAGS.IF clear and RF set.
//!
//! The store of the vector is one instruction, which becomes one that does nothing.

use crate::error::{Context, Result};
use std::fs;
use std::path::Path;

/// What comes before it: `movzbl %r12b,%esi` and the store of `error_code`.
const BEFORE: [u8; 11] = [
    0x41, 0x0f, 0xb6, 0xf4, 0x44, 0x89, 0xab, 0x80, 0x34, 0x00, 0x00,
];
/// The store of `exception_index`: `mov %esi,-0x3db0(%rbx)`.
const STORE: [u8; 6] = [0x89, 0xb3, 0x50, 0xc2, 0xff, 0xff];
/// What comes after it: the store of 0 to `exception_is_int`.
const AFTER: [u8; 10] = [0xc7, 0x83, 0x84, 0x34, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00];
/// `nopw 0x0(%rax,%rax,1)`, as long as the store.
const NOTHING: [u8; STORE.len()] = [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00];

/// What became of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mended {
    /// The fault was there and is not any more.
    Now,
    /// It had been taken out before.
    Before,
    /// It is not where it is looked for: another build, with the fault or without.
    Unknown,
}

/// Mends the program in this file. The file is replaced, never changed while somebody runs it.
pub fn mend(program: &Path) -> Result<Mended> {
    let mut bytes = fs::read(program).path(program)?;
    let mended = mend_bytes(&mut bytes);
    if mended == Mended::Now {
        let beside = program.with_extension("mended");
        fs::write(&beside, &bytes).path(&beside)?;
        let permissions = fs::metadata(program).path(program)?.permissions();
        fs::set_permissions(&beside, permissions).path(&beside)?;
        fs::rename(&beside, program).path(program)?;
    }
    Ok(mended)
}

fn mend_bytes(bytes: &mut [u8]) -> Mended {
    let whole = |middle| [&BEFORE[..], middle, &AFTER[..]].concat();
    let places = |bytes: &[u8], wanted: &[u8]| -> Vec<usize> {
        let windows = bytes.windows(wanted.len()).enumerate();
        windows
            .filter(|(_, window)| *window == wanted)
            .map(|(at, _)| at)
            .collect()
    };
    match places(bytes, &whole(&STORE))[..] {
        [at] => {
            let store = at + BEFORE.len();
            bytes[store..store + STORE.len()].copy_from_slice(&NOTHING);
            Mended::Now
        }
        [] if !places(bytes, &whole(&NOTHING)).is_empty() => Mended::Before,
        _ => Mended::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(middle: &[u8]) -> Vec<u8> {
        [&[0x90; 7], &BEFORE[..], middle, &AFTER, &[0xc3]].concat()
    }

    #[test]
    fn the_store_becomes_nothing_once() {
        let mut bytes = program(&STORE);
        assert_eq!(mend_bytes(&mut bytes), Mended::Now);
        assert_eq!(bytes, program(&NOTHING));
        assert_eq!(mend_bytes(&mut bytes), Mended::Before);
        assert_eq!(bytes, program(&NOTHING));
    }

    #[test]
    fn another_build_stays_as_it_is() {
        let twice = [program(&STORE), program(&STORE)].concat();
        for unknown in [vec![0x90; 64], twice, Vec::new()] {
            let mut bytes = unknown.clone();
            assert_eq!(mend_bytes(&mut bytes), Mended::Unknown);
            assert_eq!(bytes, unknown);
        }
    }

    #[test]
    fn a_file_is_replaced_and_stays_executable() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("qemu");
        fs::write(&file, program(&STORE)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(mend(&file).unwrap(), Mended::Now);
        assert_eq!(fs::read(&file).unwrap(), program(&NOTHING));
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(mend(&file).unwrap(), Mended::Before);
    }
}
