//! Which build of the program this process is. Two that differ may give different answers to one query.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::config::Config;
use crate::{actor, os, udf};

/// What all processes of a cluster must have in common: nodes refuse each other if it differs. First the build, which covers
/// the code; the rest is what must agree also where somebody says by `REGATTA_BUILD` that builds belong together.
pub(crate) fn hello() -> Bytes {
    static HELLO: LazyLock<Bytes> = LazyLock::new(|| {
        let own = || os::program().and_then(|program| identity(&program));
        // One that cannot be read is like no other.
        let build =
            Config::build().unwrap_or_else(|| own().unwrap_or_else(|why| format!("{:x} ({why})", os::random())));
        let (version, udfs, actors) =
            (env!("CARGO_PKG_VERSION"), udf::registered().join(", "), actor::registered().join(", "));
        let stores = [("s3", cfg!(feature = "s3")), ("gcs", cfg!(feature = "gcs")), ("azure", cfg!(feature = "azure"))];
        let stores: Vec<_> = stores.into_iter().filter_map(|(name, is_in)| is_in.then_some(name)).collect();
        let stores = stores.join(", ");
        let parts = [
            format!("build {build}"),
            format!("regatta {version}"),
            "polars 0.55.2".to_owned(),
            format!("object stores [{stores}]"),
            format!("UDFs [{udfs}]"),
            format!("actors [{actors}]"),
        ];
        parts.join(PART).into()
    });
    HELLO.clone()
}

/// Between the parts of a hello.
const PART: &str = "; ";

/// How two hellos differ, and what to do about it.
pub(super) fn difference(ours: &[u8], theirs: &[u8]) -> String {
    let (ours, theirs) = (String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
    let (of_ours, of_theirs) = (ours.split(PART), theirs.split(PART));
    let (ours, theirs) = if of_ours.clone().count() == of_theirs.clone().count() {
        let differ: Vec<_> = of_ours.zip(of_theirs).filter(|(ours, theirs)| ours != theirs).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = differ.into_iter().unzip();
        (ours.join(PART), theirs.join(PART))
    } else {
        (ours.into_owned(), theirs.into_owned())
    };
    format!(
        "the builds differ: ours is {ours:?}, the head's is {theirs:?}. Builds that differ may answer differently: run the same \
         executable on both. If they are to work together all the same, start the head and whoever joins it with one \
         REGATTA_BUILD=<a name of yours>; versions, object stores, UDFs and actors must agree then, too"
    )
}

/// What tells an executable from any other: the linker's fingerprint of what it has linked, which is the same for a copy without
/// its debug info; where the linker leaves none, a hash of the file.
fn identity(program: &File) -> io::Result<String> {
    match build_id(program) {
        Some(id) => Ok(id.iter().map(|byte| format!("{byte:02x}")).collect()),
        None => {
            let mut hasher = blake3::Hasher::new();
            let (mut piece, mut offset) = (vec![0; PIECE], 0);
            loop {
                match program.read_at(&mut piece, offset)? {
                    0 => return Ok(hasher.finalize().to_hex().to_string()),
                    read => {
                        hasher.update(&piece[..read]);
                        offset += read as u64;
                    }
                }
            }
        }
    }
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
        fingerprint(&notes, if align == 8 { 8 } else { 4 })
    })
}

/// The fingerprint among some notes: each is three numbers, a name and a content, the latter two filled up to `align`.
fn fingerprint(mut notes: &[u8], align: usize) -> Option<Vec<u8>> {
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
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn this_program_is_known_by_its_linkers_fingerprint_which_a_copy_shares_and_another_build_does_not() {
        let program = os::program().unwrap();
        let id = build_id(&program).expect("the linkers that are tested here leave one");
        assert!(id.len() >= 8, "{id:?}");
        assert_eq!(identity(&program).unwrap().len(), 2 * id.len());
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let at = whole.windows(id.len()).position(|bytes| bytes == id).unwrap();
        let mut copy = whole[..at + id.len()].to_vec();
        assert_eq!(identity(&file(&copy)).unwrap(), identity(&program).unwrap(), "what follows is not looked at");
        copy[at] ^= 1;
        assert_ne!(identity(&file(&copy)).unwrap(), identity(&program).unwrap());
    }

    #[test]
    fn a_program_without_a_fingerprint_is_known_by_all_of_its_bytes() {
        let mut bytes = vec![7; 3 * PIECE];
        let one = identity(&file(&bytes)).unwrap();
        assert_eq!(identity(&file(&bytes)).unwrap(), one);
        bytes[2 * PIECE + 5] ^= 1;
        assert_ne!(identity(&file(&bytes)).unwrap(), one);
        // Damaged headers lead nowhere, and to no panic.
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0xff);
        identity(&file(&elf)).unwrap();
        elf.resize(200, 4);
        identity(&file(&elf)).unwrap();
    }

    #[test]
    fn a_difference_names_what_differs_on_both_sides_and_the_remedies() {
        let of = |build: &str, udfs: &str| format!("build {build}; regatta 1; UDFs [{udfs}]");
        let text = difference(of("a1", "x").as_bytes(), of("b2", "x").as_bytes());
        assert!(text.contains("ours is \"build a1\", the head's is \"build b2\""), "{text}");
        assert!(text.contains("run the same executable") && text.contains("REGATTA_BUILD="), "{text}");
        let text = difference(of("same", "x").as_bytes(), of("same", "x, y").as_bytes());
        assert!(text.contains("ours is \"UDFs [x]\", the head's is \"UDFs [x, y]\""), "{text}");
        let text = difference(of("a1", "x").as_bytes(), b"regatta 7, another program");
        assert!(text.contains("UDFs [x]") && text.contains("another program"), "{text}");
    }
}
