//! The parts of an ELF64 file that booting looks at beside the loader (System V ABI,
//! AMD64 supplement, chapters 4 and 5): segments to clear, and Xen's PVH note.
//!
//! The loader copies what the file holds. It neither clears what the file leaves out, which
//! matters when memory has been used before a reset, nor finds the PVH note when the file
//! has more than one note segment, as what gcc links has.

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

use super::BootError;
use super::image::Image;

const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const MACHINE_X86_64: u16 = 62;
/// XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h).
const NOTE_PHYS32_ENTRY: u32 = 18;
const NOTE_OWNER: &[u8] = b"Xen\0";
/// Notes are a few hundred bytes; more than this is not read.
const NOTES_MAX: u64 = 64 << 10;

/// What goes to memory: `file_size` bytes of the file, then zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub start: u64,
    pub file_size: u64,
    pub memory_size: u64,
}

/// What we know of an ELF file.
#[derive(Debug)]
pub struct Elf {
    pub segments: Vec<Segment>,
    pub pvh_entry: Option<u32>,
}

impl Elf {
    /// Reads the headers and notes.
    pub fn read(image: &Image) -> Result<Self, BootError> {
        let mut header = Elf64_Ehdr::default();
        image.read_at(header.as_mut_slice(), 0)?;
        if header.e_ident[CLASS] != CLASS_64 || header.e_machine != MACHINE_X86_64 {
            return Err(image.unbootable(
                "is not an ELF file for x86-64; link it as one (objcopy -O elf64-x86-64 changes a 32-bit one)",
            ));
        }
        let mut elf = Self {
            segments: Vec::new(),
            pvh_entry: None,
        };
        for index in 0..u64::from(header.e_phnum) {
            let mut program = Elf64_Phdr::default();
            let size = size_of::<Elf64_Phdr>() as u64;
            let offset = header.e_phoff.saturating_add(index * size);
            image.read_at(program.as_mut_slice(), offset)?;
            match program.p_type {
                PT_LOAD => elf.segments.push(Segment {
                    start: program.p_paddr,
                    file_size: program.p_filesz,
                    memory_size: program.p_memsz,
                }),
                PT_NOTE if elf.pvh_entry.is_none() => {
                    let mut notes = vec![0; program.p_filesz.min(NOTES_MAX) as usize];
                    image.read_at(&mut notes, program.p_offset)?;
                    elf.pvh_entry = pvh_entry(&notes, program.p_align);
                }
                _ => {}
            }
        }
        Ok(elf)
    }
}

/// The entry in the PVH note among `notes`, if there is one.
fn pvh_entry(notes: &[u8], align: u64) -> Option<u32> {
    let align = if align == 8 { 8 } else { 4 };
    let word = |at: usize| -> Option<u32> {
        let bytes = notes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut at = 0usize;
    loop {
        let (name_size, desc_size, kind) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let name = at + 12;
        let name_end = name.checked_add(name_size as usize)?;
        let desc = name_end.checked_next_multiple_of(align)?;
        if kind == NOTE_PHYS32_ENTRY && notes.get(name..name_end)? == NOTE_OWNER && desc_size >= 4 {
            return word(desc);
        }
        let desc_end = desc.checked_add(desc_size as usize)?;
        at = desc_end.checked_next_multiple_of(align)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn note(owner: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [owner.len() as u32, desc.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [owner, desc] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_pvh_note_is_found_among_others() {
        let mut notes = note(b"GNU\0", 3, &[1; 20]);
        notes.extend(note(b"Linux\0", NOTE_PHYS32_ENTRY, &[2; 4]));
        notes.extend(note(b"Xen\0", 6, b"linux\0"));
        assert_eq!(pvh_entry(&notes, 4), None);
        notes.extend(note(
            b"Xen\0",
            NOTE_PHYS32_ENTRY,
            &0x10_0040u64.to_le_bytes(),
        ));
        assert_eq!(pvh_entry(&notes, 4), Some(0x10_0040));
    }

    proptest! {
        #[test]
        fn no_notes_panic_or_hang(notes: Vec<u8>, align in 0u64..16) {
            let _ = pvh_entry(&notes, align);
        }
    }
}
