//! Takes two faults out of the QEMU that emulates the host, by which its guests hang or reset now and then, under any
//! monitor.
//!
//! **An interrupt that is delivered twice.** VMRUN with an interrupt to inject (`helper_vmrun` of
//! target/i386/tcg/system/svm_helper.c, EVENTINJ of type 0) delivers it at once, and yet leaves its vector in
//! `exception_index`. When QEMU then wants the processor out of its loop for something else, before the guest's next
//! exit, it takes the vector for an exception still to be delivered, and delivers it again, interrupts enabled or not: a
//! handler that takes a lock now waits for the code it interrupted. Seen as a guest in `hrtimer_interrupt` within
//! `hrtimer_interrupt`, EFLAGS.IF clear and RF set. The store of the vector becomes an instruction that does nothing.
//!
//! **A processor that does not know whether it is in a guest.** Whichever processor loads an FPU state without a pending
//! exception, with FXRSTOR, XRSTOR or FLDENV, clears IGNNE# of the *first* processor (`cpu_clear_ignne` of
//! target/i386/tcg/system/fpu_helper.c): a bit of `hflags2`, cleared with an AND that is not atomic. Beside it are the
//! bits for nested paging and for GIF, which the first processor itself changes with each VMRUN and #VMEXIT; what it
//! writes between the load and the store of the other one is undone. With nested paging on again the first fetch in the
//! host, just after VMRUN, is a #VMEXIT that stores the host's registers in the guest's VMCB: the guest goes on at the
//! host's address with the host's CR3, for ever, or shuts down. Without GIF no interrupt arrives any more. The AND
//! becomes an atomic one of the same bit.

use crate::error::{Context, Result};
use std::fs;
use std::path::Path;

/// Instructions that are wrong, found by what is around them.
struct Fault {
    before: &'static [u8],
    wrong: &'static [u8],
    /// What they become, as long as they are.
    right: &'static [u8],
    after: &'static [u8],
}

const FAULTS: [Fault; 2] = [
    Fault {
        // movzbl %r12b,%esi; mov %r13d,0x3480(%rbx): the store of `error_code`
        before: &[
            0x41, 0x0f, 0xb6, 0xf4, 0x44, 0x89, 0xab, 0x80, 0x34, 0x00, 0x00,
        ],
        // mov %esi,-0x3db0(%rbx): the store of `exception_index`
        wrong: &[0x89, 0xb3, 0x50, 0xc2, 0xff, 0xff],
        // nopw 0x0(%rax,%rax,1)
        right: &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        // movl $0,0x3484(%rbx): the store to `exception_is_int`
        after: &[0xc7, 0x83, 0x84, 0x34, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
    },
    Fault {
        before: &[],
        // andl $0xffffff7f,0x41a4(%rax)
        wrong: &[0x81, 0xa0, 0xa4, 0x41, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff],
        // lock andb $0x7f,0x41a4(%rax); xchg %ax,%ax
        right: &[0xf0, 0x80, 0xa0, 0xa4, 0x41, 0x00, 0x00, 0x7f, 0x66, 0x90],
        // add $0x8,%rsp; xor %eax,%eax; xor %edx,%edx
        after: &[0x48, 0x83, 0xc4, 0x08, 0x31, 0xc0, 0x31, 0xd2],
    },
];

/// What became of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mended {
    /// The faults had been taken out before.
    Before,
    /// Some were there and are not any more.
    Now,
    /// Some are not where they are looked for: another build, with the fault or without.
    Unknown,
}

/// Mends the program in this file. The file is replaced, never changed while somebody runs it.
pub fn mend(program: &Path) -> Result<Mended> {
    let old = fs::read(program).path(program)?;
    let mut bytes = old.clone();
    let mended = FAULTS.map(|fault| fault.mend(&mut bytes));
    if bytes != old {
        let beside = program.with_extension("mended");
        fs::write(&beside, &bytes).path(&beside)?;
        let permissions = fs::metadata(program).path(program)?.permissions();
        fs::set_permissions(&beside, permissions).path(&beside)?;
        fs::rename(&beside, program).path(program)?;
    }
    Ok(mended.into_iter().fold(Mended::Before, Mended::max))
}

impl Fault {
    fn mend(&self, bytes: &mut [u8]) -> Mended {
        match self.places(bytes, self.wrong)[..] {
            [at] => {
                let wrong = at + self.before.len();
                bytes[wrong..wrong + self.right.len()].copy_from_slice(self.right);
                Mended::Now
            }
            [] if !self.places(bytes, self.right).is_empty() => Mended::Before,
            _ => Mended::Unknown,
        }
    }

    fn places(&self, bytes: &[u8], middle: &[u8]) -> Vec<usize> {
        let wanted = [self.before, middle, self.after].concat();
        let windows = bytes.windows(wanted.len()).enumerate();
        windows
            .filter(|(_, window)| *window == wanted)
            .map(|(at, _)| at)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(middle: fn(&Fault) -> &[u8]) -> Vec<u8> {
        let parts = |fault: &Fault| {
            [
                &[0x90; 7],
                fault.before,
                middle(fault),
                fault.after,
                &[0xc3],
            ]
            .concat()
        };
        FAULTS.iter().flat_map(parts).collect()
    }

    fn wrong() -> Vec<u8> {
        program(|fault| fault.wrong)
    }

    fn right() -> Vec<u8> {
        program(|fault| fault.right)
    }

    fn mended(bytes: &[u8]) -> (Mended, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("qemu");
        fs::write(&file, bytes).unwrap();
        (mend(&file).unwrap(), fs::read(&file).unwrap())
    }

    #[test]
    fn faults_are_taken_out_once() {
        assert_eq!(mended(&wrong()), (Mended::Now, right()));
        assert_eq!(mended(&right()), (Mended::Before, right()));
    }

    #[test]
    fn one_that_is_left_is_taken_out() {
        let [first, second] = &FAULTS;
        let half = [&right()[..right().len() / 2], &wrong()[right().len() / 2..]].concat();
        assert_eq!(first.places(&half, first.wrong).len(), 0);
        assert_eq!(second.places(&half, second.wrong).len(), 1);
        assert_eq!(mended(&half), (Mended::Now, right()));
    }

    #[test]
    fn another_build_stays_as_it_is() {
        let twice = [wrong(), wrong()].concat();
        for unknown in [vec![0x90; 64], twice, Vec::new()] {
            assert_eq!(mended(&unknown), (Mended::Unknown, unknown));
        }
    }

    #[test]
    fn a_program_stays_as_long_as_it_is() {
        for fault in FAULTS {
            assert_eq!(fault.wrong.len(), fault.right.len());
        }
    }

    #[test]
    fn a_file_is_replaced_and_stays_executable() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("qemu");
        fs::write(&file, wrong()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(mend(&file).unwrap(), Mended::Now);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}
