//! Compiled kernels, as the driver is given them: by their address alone. It reads as far as they say themselves.

/// `SHT_NOBITS`: a section that has no bytes in the file.
const NO_BITS: u64 = 8;
/// The first kind of section that only the processor's maker knows.
const OF_PROCESSOR: u64 = 0x7000_0000;

/// What is wrong with an image, as far as its headers tell: it is neither machine code nor PTX, or it is cut short.
#[doc(hidden)]
pub fn check_image(image: &[u8]) -> Result<(), String> {
    if image.starts_with(b"\x7fELF") {
        return if elf_is_whole(image) == Some(true) {
            Ok(())
        } else {
            Err(format!("the machine code is cut short: its headers name more than its {} bytes", image.len()))
        };
    }
    match image.split_last() {
        None => Err("there is nothing in it".into()),
        Some((0, text)) if text.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')) => Ok(()),
        Some(_) => Err("it is neither machine code (an ELF file) nor PTX (text with a closing NUL)".into()),
    }
}

/// Whether both tables of an ELF file of 64 bits, and all that they name, are in it.
fn elf_is_whole(image: &[u8]) -> Option<bool> {
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = image.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let within = |at: u64, bytes: u64| at.checked_add(bytes).is_some_and(|end| end <= image.len() as u64);
    // The class and the order of bytes.
    if number(4, 1)? != 2 || number(5, 1)? != 1 {
        return Some(false);
    }
    // Where the header has the table, the size of its entries and their number; and where those have an offset and a size.
    for (table, entry, count, least, offset, size, sections) in
        [(40, 58, 60, 64, 24, 32, true), (32, 54, 56, 56, 8, 32, false)]
    {
        let (table, entry, count) = (number(table, 8)?, number(entry, 2)?, number(count, 2)?);
        if count > 0 && entry < least || !within(table, entry * count) {
            return Some(false);
        }
        for n in 0..count {
            let at = usize::try_from(table + n * entry).ok()?;
            let kind = number(at + 4, 4)?;
            let no_bytes = sections && (kind == NO_BITS || kind >= OF_PROCESSOR);
            if !no_bytes && !within(number(at + offset, 8)?, number(at + size, 8)?) {
                return Some(false);
            }
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, one section of code, one without bytes, one segment, and the tables behind them, as in a cubin.
    fn elf() -> Vec<u8> {
        let mut image = vec![0u8; 64 + 100];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let put = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let mut section = |kind: u32, offset: u64, size: u64| {
            let at = image.len();
            image.resize(at + 64, 0);
            put(&mut image, at + 4, &kind.to_le_bytes());
            put(&mut image, at + 24, &offset.to_le_bytes());
            put(&mut image, at + 32, &size.to_le_bytes());
        };
        section(1, 64, 100);
        section(8, 64, 1 << 40);
        let at = image.len();
        image.resize(at + 56, 0);
        put(&mut image, at + 8, &64u64.to_le_bytes());
        put(&mut image, at + 32, &100u64.to_le_bytes());
        put(&mut image, 32, &(at as u64).to_le_bytes());
        put(&mut image, 40, &164u64.to_le_bytes());
        for (at, number) in [(54, 56u16), (56, 1), (58, 64), (60, 2)] {
            put(&mut image, at, &number.to_le_bytes());
        }
        image
    }

    #[test]
    fn machine_code_that_names_more_than_is_there_is_refused_wherever_it_is_cut() {
        let image = elf();
        assert_eq!(check_image(&image), Ok(()));
        for length in 4..image.len() {
            let error = check_image(&image[..length]).unwrap_err();
            assert!(error.starts_with("the machine code is cut short"), "{length}: {error}");
        }
        // Numbers that no file has, in each field that is one.
        for (at, bytes) in
            [(32, 8), (40, 8), (54, 2), (56, 2), (58, 2), (60, 2), (188, 8), (196, 8), (300, 8), (324, 8)]
        {
            let mut wrong = image.clone();
            wrong[at..at + bytes].fill(0xFF);
            assert!(check_image(&wrong).is_err(), "at {at}");
        }
    }

    #[test]
    fn ptx_is_text_that_ends_and_nothing_else_is_read() {
        assert_eq!(check_image(b"// PTX\n.version 8.0\n\t.target sm_90\r\n\0"), Ok(()));
        for image in
            [&b"no image"[..], b".version 8.0", b".version\0 8.0\0", b"\x50\xed\x55\xba\x01\0\x10\0", b"\xff\0"]
        {
            assert!(check_image(image).unwrap_err().starts_with("it is neither machine code"), "{image:?}");
        }
        assert_eq!(check_image(b"").unwrap_err(), "there is nothing in it");
    }
}
