//! What tells one executable from another.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ring::digest;

/// What tells an executable from any other: the linker's fingerprint of what it has linked, which is the same for a copy without
/// its debug info; where the linker leaves none, a hash of the file.
///
/// # Errors
/// It cannot be read.
pub fn fingerprint(program: &File) -> io::Result<String> {
    match build_id(program) {
        Some(id) => Ok(hex(&id)),
        None => {
            let mut digest = digest::Context::new(&digest::SHA256);
            let (mut piece, mut offset) = (vec![0; PIECE], 0);
            loop {
                match program.read_at(&mut piece, offset)? {
                    0 => return Ok(hex(digest.finish().as_ref())),
                    read => {
                        digest.update(&piece[..read]);
                        offset += read as u64;
                    }
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Read at once of an executable that is hashed.
const PIECE: usize = 1 << 20;
/// A segment of notes, and the note that is the linker's fingerprint, by the numbers of the ELF format.
const SEGMENT_OF_NOTES: u32 = 4;
const BUILD_ID: u32 = 3;
/// Notes are small; what says that it is longer is no note.
const LONGEST: u64 = 64 << 10;

/// The linker's fingerprint, of an ELF file of 64 bits in the order of bytes that all our machines have.
fn build_id(program: &File) -> Option<Vec<u8>> {
    let header: [u8; 64] = read(program, 0)?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, size) = (number(&header, 32, 8)?, number(&header, 54, 2)?);
    (0..number(&header, 56, 2)?).find_map(|index| {
        let segment: [u8; 56] = read(program, start.checked_add(index * size)?)?;
        if number(&segment, 0, 4)? != u64::from(SEGMENT_OF_NOTES) {
            return None;
        }
        let (offset, length, align) = (number(&segment, 8, 8)?, number(&segment, 32, 8)?, number(&segment, 48, 8)?);
        let mut notes = vec![0; usize::try_from(length.min(LONGEST)).ok()?];
        program.read_exact_at(&mut notes, offset).ok()?;
        build_id_in(&notes, if align == 8 { 8 } else { 4 })
    })
}

/// The fingerprint among some notes: each is three numbers, a name and a content, the latter two filled up to `align`.
fn build_id_in(mut notes: &[u8], align: usize) -> Option<Vec<u8>> {
    loop {
        let (name, content, kind) = (number(notes, 0, 4)?, number(notes, 4, 4)?, number(notes, 8, 4)?);
        let name_ends = 12 + usize::try_from(name).ok()?;
        let begins = name_ends.next_multiple_of(align);
        let ends = begins + usize::try_from(content).ok()?;
        if kind == u64::from(BUILD_ID) && notes.get(12..name_ends)? == b"GNU\0" {
            return notes.get(begins..ends).map(<[u8]>::to_vec);
        }
        notes = notes.get(ends.next_multiple_of(align)..)?;
    }
}

fn read<const N: usize>(file: &File, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// The number that is at some offset, in so many bytes.
fn number(bytes: &[u8], offset: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("regatta-program-{}-{number}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn this_program_is_known_by_its_linkers_fingerprint_which_a_copy_shares_and_another_build_does_not() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let id = build_id(&program).expect("the linkers that are tested here leave one");
        assert!(id.len() >= 8, "{id:?}");
        assert_eq!(fingerprint(&program).unwrap().len(), 2 * id.len());
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let at = whole.windows(id.len()).position(|bytes| bytes == id).unwrap();
        let mut copy = whole[..at + id.len()].to_vec();
        assert_eq!(fingerprint(&file(&copy)).unwrap(), fingerprint(&program).unwrap(), "what follows is not looked at");
        copy[at] ^= 1;
        assert_ne!(fingerprint(&file(&copy)).unwrap(), fingerprint(&program).unwrap());
    }

    #[test]
    fn a_program_without_a_fingerprint_is_known_by_all_of_its_bytes() {
        let mut bytes = vec![7; 3 * PIECE];
        let one = fingerprint(&file(&bytes)).unwrap();
        assert_eq!(fingerprint(&file(&bytes)).unwrap(), one);
        bytes[2 * PIECE + 5] ^= 1;
        assert_ne!(fingerprint(&file(&bytes)).unwrap(), one);
        // Damaged headers lead nowhere, and to no panic.
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0xff);
        fingerprint(&file(&elf)).unwrap();
        elf.resize(200, 4);
        fingerprint(&file(&elf)).unwrap();
    }
}
