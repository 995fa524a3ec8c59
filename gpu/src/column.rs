//! Columns of a batch as they lie in memory: Arrow's buffers on the host, one slab on the device.

use std::ops::Range;

use crate::{GpuError, Pointer};

/// Packed bits, the lowest of each byte first, as in Arrow.
#[derive(Debug, Clone, Copy)]
pub struct Bits<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// How many bits to leave out.
    pub offset: usize,
}

/// A column's values on the host.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// So many bytes for each row: numbers, or lists of one length.
    Fixed {
        /// The rows, one after the other.
        bytes: &'a [u8],
        /// Bytes of a row.
        each: usize,
    },
    /// A bit for each row.
    Bits(Bits<'a>),
    /// Lists of numbers, or text: row `i` has the elements from `offsets[i]` to `offsets[i + 1]`.
    Variable {
        /// One more than rows, in elements; the first need not be 0.
        offsets: &'a [i64],
        /// All elements.
        bytes: &'a [u8],
        /// Bytes of an element.
        each: usize,
    },
}

/// A column of a batch on the host.
#[derive(Debug, Clone, Copy)]
pub struct HostColumn<'a> {
    /// Its values. Where a row is null, anything.
    pub values: Values<'a>,
    /// A set bit for each row that is not null; `None`: no row is null.
    pub validity: Option<Bits<'a>>,
}

/// A column on the device, as kernels get it. Addresses are aligned to 256 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    rows: usize,
    elements: usize,
    data: Pointer,
    offsets: Option<Pointer>,
    validity: Option<Pointer>,
}

impl Input {
    /// A column that is on the device already: what another kernel left.
    pub fn resident(rows: usize, data: Pointer, validity: Option<Pointer>) -> Self {
        Self { rows, elements: rows, data, offsets: None, validity }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many elements the lists or texts of all rows have together; rows, for other columns.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The values; for text and lists, the elements of all rows. A column of bits starts at the lowest bit.
    pub fn data(&self) -> Pointer {
        self.data
    }

    /// For text and lists: `long long`s, one more than rows, from 0 on, in elements.
    pub fn offsets(&self) -> Option<Pointer> {
        self.offsets
    }

    /// A set bit for each row that is not null, the lowest first, in words of 32 bits; `None`: no row is null.
    pub fn validity(&self) -> Option<Pointer> {
        self.validity
    }
}

/// The result on the device, as kernels get it.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub(crate) rows: usize,
    pub(crate) data: Pointer,
    pub(crate) validity: Option<Pointer>,
}

impl Output {
    /// A result in memory that was allocated for it.
    pub fn new(rows: usize, data: Pointer, validity: Option<Pointer>) -> Self {
        Self { rows, data, validity }
    }

    /// How many rows are to be written.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Where the values go. Holds anything at first.
    pub fn data(&self) -> Pointer {
        self.data
    }

    /// Where a kernel clears the bits of rows that it makes null, if it said that it does; all are set at first.
    pub fn validity(&self) -> Option<Pointer> {
        self.validity
    }
}

/// Where things start in a slab.
const ALIGN: usize = 256;

pub(crate) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// Bytes of so many bits, in whole words.
pub(crate) fn bit_bytes(bits: usize) -> usize {
    bits.div_ceil(32) * 4
}

/// Where some rows of a batch lie in a slab: first what the host packs, then what goes there from where it is.
pub(crate) struct Packing<'a> {
    places: Vec<Place<'a>>,
    rows: Range<usize>,
    /// Bytes that the host packs.
    pub(crate) staged: usize,
    /// Bytes of the slab.
    pub(crate) bytes: usize,
}

struct Place<'a> {
    /// The values, if the host does not pack them.
    direct: Option<&'a [u8]>,
    data: usize,
    elements: usize,
    offsets: Option<usize>,
    validity: Option<usize>,
}

/// The bytes of these rows; none for bits, which do not go as they are.
fn values<'a>(column: &HostColumn<'a>, rows: &Range<usize>) -> Option<&'a [u8]> {
    match column.values {
        Values::Fixed { bytes, each } => Some(&bytes[rows.start * each..rows.end * each]),
        Values::Bits(_) => None,
        Values::Variable { offsets, bytes, each } => {
            Some(&bytes[offsets[rows.start] as usize * each..offsets[rows.end] as usize * each])
        }
    }
}

/// Checks that each column has what its rows need: nothing that a kernel is told is taken on trust.
pub(crate) fn check(columns: &[HostColumn<'_>], rows: usize) -> Result<(), GpuError> {
    let enough = |bits: &Bits<'_>| bits.offset.checked_add(rows).is_some_and(|end| end <= bits.bytes.len() * 8);
    for (n, column) in columns.iter().enumerate() {
        let fits = match &column.values {
            Values::Fixed { bytes, each } => rows.checked_mul(*each) == Some(bytes.len()),
            Values::Bits(bits) => enough(bits),
            Values::Variable { offsets, bytes, each } => {
                let last = offsets.last().and_then(|last| usize::try_from(*last).ok()?.checked_mul(*each));
                offsets.len() == rows + 1
                    && offsets[0] >= 0
                    && offsets.windows(2).all(|pair| pair[0] <= pair[1])
                    && last.is_some_and(|end| end <= bytes.len())
            }
        };
        if !fits || column.validity.as_ref().is_some_and(|bits| !enough(bits)) {
            return Err(GpuError::invalid(format!("the buffers of input {n} do not hold {rows} rows")));
        }
    }
    Ok(())
}

impl<'a> Packing<'a> {
    /// `direct`: whether a copy of its own takes these values to the device, from where they are.
    pub(crate) fn of(columns: &[HostColumn<'a>], rows: Range<usize>, direct: impl Fn(&[u8]) -> bool) -> Self {
        let count = rows.len();
        let mut end = 0;
        let mut place = |bytes: usize| {
            let start = end;
            end = aligned(end + bytes);
            start
        };
        let places = columns.iter().map(|column| {
            let values = values(column, &rows);
            let direct = values.filter(|values| direct(values));
            // For those that go directly, not known yet.
            let data = direct.map_or_else(|| place(values.map_or_else(|| bit_bytes(count), <[u8]>::len)), |_| 0);
            let (elements, offsets) = match &column.values {
                Values::Variable { offsets, .. } => {
                    let elements = (offsets[rows.end] - offsets[rows.start]) as usize;
                    (elements, Some(place((count + 1) * size_of::<i64>())))
                }
                Values::Fixed { .. } | Values::Bits(_) => (count, None),
            };
            Place { direct, data, elements, offsets, validity: column.validity.map(|_| place(bit_bytes(count))) }
        });
        let mut places: Vec<_> = places.collect();
        let staged = place(0);
        for (to, bytes) in places.iter_mut().filter_map(|to| Some((&mut to.data, to.direct?.len()))) {
            *to = place(bytes);
        }
        Self { places, rows, staged, bytes: end }
    }

    /// What goes to the device from where it is, and to where in the slab.
    pub(crate) fn direct(&self) -> impl Iterator<Item = (usize, &'a [u8])> {
        self.places.iter().filter_map(|place| Some((place.data, place.direct?)))
    }

    /// Copies the rows into the slab, from front to back, but for those that go directly.
    pub(crate) fn write(&self, columns: &[HostColumn<'_>], slab: &mut [u8]) {
        let Range { start, end } = self.rows;
        for (column, place) in columns.iter().zip(&self.places) {
            let bits = |bits: &Bits<'_>, at: usize, slab: &mut [u8]| {
                let to = &mut slab[at..at + bit_bytes(self.rows.len())];
                copy_bits(to, bits.bytes, bits.offset + start, self.rows.len());
            };
            if let Some(from) = values(column, &self.rows).filter(|_| place.direct.is_none()) {
                slab[place.data..place.data + from.len()].copy_from_slice(from);
            }
            match &column.values {
                Values::Fixed { .. } => (),
                Values::Bits(values) => bits(values, place.data, slab),
                Values::Variable { offsets, .. } => {
                    let to = slab[place.offsets.unwrap_or(0)..].chunks_exact_mut(size_of::<i64>());
                    for (to, offset) in to.zip(&offsets[start..=end]) {
                        to.copy_from_slice(&(offset - offsets[start]).to_ne_bytes());
                    }
                }
            }
            if let (Some(validity), Some(at)) = (&column.validity, place.validity) {
                bits(validity, at, slab);
            }
        }
    }

    /// The columns, once the slab is on the device.
    pub(crate) fn inputs(&self, slab: Pointer) -> Vec<Input> {
        let input = |place: &Place<'_>| Input {
            rows: self.rows.len(),
            elements: place.elements,
            data: slab.after(place.data),
            offsets: place.offsets.map(|at| slab.after(at)),
            validity: place.validity.map(|at| slab.after(at)),
        };
        self.places.iter().map(input).collect()
    }
}

/// Writes so many bits from `offset` on, then zeros to the end.
pub(crate) fn copy_bits(to: &mut [u8], from: &[u8], offset: usize, bits: usize) {
    let (skip, shift) = (offset / 8, offset % 8);
    let byte = |at: usize| u16::from(from.get(skip + at).copied().unwrap_or(0));
    for (n, to) in to.iter_mut().enumerate() {
        let whole = ((byte(n) | byte(n + 1) << 8) >> shift) as u8;
        *to = match bits.saturating_sub(n * 8) {
            left @ 0..8 => whole & ((1u16 << left) - 1) as u8,
            _ => whole,
        };
    }
}

/// Appends so many bits behind the first `at` ones; what is behind them is zero, and stays so.
pub(crate) fn append_bits(to: &mut [u8], at: usize, from: &[u8], bits: usize) {
    for bit in 0..bits {
        let (n, set) = (at + bit, from[bit / 8] >> (bit % 8) & 1);
        to[n / 8] |= set << (n % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_copied_from_any_offset_and_appended_at_any() {
        let from: Vec<u8> = (0..16u8).map(|n| n.wrapping_mul(37) ^ 0x5A).collect();
        let bit = |bytes: &[u8], n: usize| bytes[n / 8] >> (n % 8) & 1;
        for offset in 0..20 {
            for bits in [0, 1, 7, 8, 9, 31, 32, 33, 64, 100] {
                let mut to = vec![0xFF; bit_bytes(bits)];
                copy_bits(&mut to, &from, offset, bits);
                assert!((0..bits).all(|n| bit(&to, n) == bit(&from, offset + n)), "{bits} bits from {offset}");
                assert!((bits..to.len() * 8).all(|n| bit(&to, n) == 0));
                let mut all = vec![0; 20];
                append_bits(&mut all, offset, &to, bits);
                assert!((0..bits).all(|n| bit(&all, offset + n) == bit(&to, n)));
            }
        }
    }

    #[test]
    fn rows_of_a_slice_are_packed_with_offsets_from_zero() {
        let (offsets, bytes) = ([2i64, 3, 3, 6, 7], *b"..abcde..");
        let numbers = [1u16, 2, 3, 4].map(u16::to_ne_bytes).concat();
        let text = HostColumn {
            values: Values::Variable { offsets: &offsets, bytes: &bytes, each: 1 },
            validity: Some(Bits { bytes: &[0b0101_1000], offset: 3 }),
        };
        let columns = [HostColumn { values: Values::Fixed { bytes: &numbers, each: 2 }, validity: None }, text];
        check(&columns, 4).unwrap();
        let packing = Packing::of(&columns, 1..4, |_| false);
        assert_eq!((packing.staged, packing.direct().count()), (packing.bytes, 0));
        let mut slab = vec![0; packing.bytes];
        packing.write(&columns, &mut slab);
        assert_eq!(slab[..6], numbers[2..]);
        assert_eq!(&slab[256..260], b"bcde");
        let offsets: Vec<i64> =
            slab[512..544].chunks(8).map(|bytes| i64::from_ne_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(offsets, [0, 0, 3, 4]);
        assert_eq!(slab[768], 0b101, "bits 4 to 6");

        // The text goes from where it is: behind all that is packed.
        let packing = Packing::of(&columns, 1..4, |values| values.starts_with(b"b"));
        let mut slab = vec![0; packing.staged];
        packing.write(&columns, &mut slab);
        assert_eq!((packing.staged, packing.bytes), (768, 1024));
        let direct: Vec<_> = packing.direct().collect();
        assert!(matches!(direct[..], [(768, text)] if text.as_ptr() == bytes[3..].as_ptr() && text == b"bcde"));
        assert_eq!((&slab[..6], slab[264], slab[512]), (&numbers[2..], 0, 0b101));
        let inputs = packing.inputs(Pointer(1 << 20));
        let [numbers, text] = &inputs[..] else { panic!("two inputs") };
        assert_eq!((numbers.data, text.data), (Pointer(1 << 20), Pointer((1 << 20) + 768)));
        assert_eq!((text.offsets, text.validity), (Some(Pointer((1 << 20) + 256)), Some(Pointer((1 << 20) + 512))));
    }

    #[test]
    fn buffers_that_do_not_hold_their_rows_are_refused() {
        let fixed = |bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None };
        assert!(check(&[fixed(&[0; 12])], 3).is_ok());
        let text = check(&[fixed(&[0; 12]), fixed(&[0; 11])], 3).unwrap_err().to_string();
        assert!(text.contains("input 1") && text.contains("3 rows"), "{text}");
        let lists =
            |offsets| HostColumn { values: Values::Variable { offsets, bytes: &[0; 8], each: 4 }, validity: None };
        assert!(check(&[lists(&[0, 1, 2])], 2).is_ok());
        for wrong in [&[0, 2, 1][..], &[0, 1, 3], &[-1, 1, 2], &[0, 1], &[0, 1, i64::MAX]] {
            assert!(check(&[lists(wrong)], 2).is_err(), "{wrong:?}");
        }
        let validity = Some(Bits { bytes: &[0], offset: 6 });
        assert!(check(&[HostColumn { validity, ..fixed(&[0; 12]) }], 3).is_err());
    }
}
