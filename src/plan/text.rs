//! Text that is cut at the ends of lines: a piece of a file is read as if it were a file.
//!
//! A line of CSV may end inside of quotes, and then it is none. As Polars does, each quote is taken to open or to close: whoever knows
//! how many stand before a byte knows whether it is inside. So the quotes of a file are counted once where the query is planned, by
//! all threads, which costs a small part of what reading it does. Lines of JSON hold no line's end, so nothing of them is counted.
//!
//! What a file begins with is in its first piece only. The others are told the names of its columns, and begin at a line in which Polars
//! finds all of them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memchr2_iter};
use polars::prelude::*;
use polars_buffer::Buffer;
use polars_core::runtime::THREAD_POOL;
use polars_io::prelude::{CsvReadOptions, SplitLines, read_until_start_and_infer_schema_from_compressed_reader};
use polars_io::utils::compression::{CompressedReader, SupportedCompression};
use polars_plan::dsl::{FileScanIR, ScanSource, ScanSources};
use polars_plan::plans::IR;
use rayon::prelude::*;

/// What is looked at of a file's beginning, and of the bytes behind a place where it may be cut.
const HEAD: u64 = 1 << 20;
const LOOK: u64 = 1 << 18;
/// A file has no more than so many pieces, but for large ones.
const PIECES: u64 = 256;
/// They have so many bytes, but for the last.
const LEAST: u64 = 1 << 12;
const MOST: u64 = 8 << 20;
/// Lines that are tried behind a place before the file is not cut there.
const TRIED: usize = 16;

/// Where the pieces of a file end, the last where it does.
///
/// # Errors
/// It cannot be read from here.
pub(super) fn ends(path: &Path, format: &FileScanIR) -> std::io::Result<Vec<u64>> {
    // To open what is no file may wait for whoever writes into it, or take from who reads of it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut ends = inner_ends(&file, bytes, format)?.unwrap_or_default();
    ends.push(bytes);
    Ok(ends)
}

/// Those within it; none if it must be read whole.
fn inner_ends(file: &File, bytes: u64, format: &FileScanIR) -> std::io::Result<Option<Vec<u64>>> {
    let piece = (bytes / PIECES).clamp(LEAST, MOST);
    let head = Buffer::from(read(file, 0, HEAD.min(bytes))?);
    if bytes < 2 * piece || SupportedCompression::check(&head).is_some() {
        return Ok(None);
    }
    let lines = match format {
        FileScanIR::Csv { options } => match Lines::of_csv(&head, head.len() as u64 == bytes, options) {
            Some(lines) => lines,
            None => return Ok(None),
        },
        FileScanIR::NDJson { .. } => Lines { eol: b'\n', quote: None, start: 0, names: None },
        _ => return Ok(None),
    };
    let places: Vec<u64> = (1..bytes / piece).map(|place| lines.start + place * piece).collect();
    let is_inside = lines.are_inside(file, &places)?;
    let end = |(place, is_inside): (&u64, bool)| {
        let behind = read(file, *place, LOOK.min(bytes.saturating_sub(*place)))?;
        Ok(lines.begin_of_one(behind, is_inside).map(|within| place + within as u64))
    };
    let ends: std::io::Result<Vec<_>> = THREAD_POOL.install(|| places.par_iter().zip(is_inside).map(end).collect());
    let mut ends: Vec<u64> = ends?.into_iter().flatten().filter(|end| *end < bytes).collect();
    // A line that is longer than a piece holds several places; and a file may have changed while it was looked at.
    ends.sort_unstable();
    ends.dedup();
    if let (Some((names, _)), FileScanIR::Csv { options }) = (&lines.names, format) {
        // The first piece must hold the lines that say how many columns there are.
        let says = |end: u64| columns(&head.clone().sliced(..head.len().min(end as usize)), options);
        let short = ends.partition_point(|end| says(*end).is_none_or(|(some, _)| some != *names));
        ends.drain(..short);
    }
    Ok(Some(ends))
}

fn read(file: &File, from: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut known = 0;
    while known < bytes.len() {
        match file.read_at(&mut bytes[known..], from + known as u64) {
            Ok(0) => break,
            Ok(more) => known += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(known);
    Ok(bytes)
}

/// How the lines of a file are told apart.
struct Lines {
    eol: u8,
    quote: Option<u8>,
    /// Where the first one with values begins.
    start: u64,
    /// The names that each piece is told, and how it is read.
    names: Option<(Vec<PlSmallStr>, CsvReadOptions)>,
}

impl Lines {
    /// None, if only who has read all before knows what a line is.
    fn of_csv(head: &Buffer<u8>, is_all: bool, options: &CsvReadOptions) -> Option<Self> {
        let parse = &options.parse_options;
        if parse.comment_prefix.is_some() || parse.quote_char == Some(parse.eol_char) {
            return None;
        }
        // Where a quote is never closed, which rows Polars makes of what follows depends on where it splits the file.
        if parse.quote_char.is_some() && options.ignore_errors {
            return None;
        }
        let (names, start) = columns(head, options)?;
        if !is_all && !options.has_header && options.schema.is_none() {
            // Names are those of the longest of the lines that Polars looks at: they must be here.
            let looked_at = options.infer_schema_length.unwrap_or(usize::MAX);
            let mut lines = SplitLines::new(&head[start..], parse.quote_char, parse.eol_char, None);
            lines.nth(looked_at)?;
        }
        let of_pieces = of_piece(options, &names);
        Some(Self {
            eol: parse.eol_char,
            quote: parse.quote_char,
            start: start as u64,
            names: Some((names, of_pieces)),
        })
    }

    /// Whether each of these places, in order, is inside of quotes.
    fn are_inside(&self, file: &File, places: &[u64]) -> std::io::Result<Vec<bool>> {
        let Some(quote) = self.quote else { return Ok(vec![false; places.len()]) };
        let before = |place: usize| if place == 0 { self.start } else { places[place - 1] };
        let quotes = |place: usize| {
            let (mut from, mut quotes) = (before(place), 0);
            while from < places[place] {
                let some = read(file, from, (places[place] - from).min(HEAD))?;
                if some.is_empty() {
                    break;
                }
                from += some.len() as u64;
                quotes += memchr_iter(quote, &some).count();
            }
            Ok(quotes)
        };
        let quotes: std::io::Result<Vec<usize>> =
            THREAD_POOL.install(|| (0..places.len()).into_par_iter().map(quotes).collect());
        let inside = quotes?.into_iter().scan(false, |inside, quotes| {
            *inside ^= quotes % 2 == 1;
            Some(*inside)
        });
        Ok(inside.collect())
    }

    /// Where, behind some place, a line begins that a piece can begin with.
    fn begin_of_one(&self, behind: Vec<u8>, mut is_inside: bool) -> Option<usize> {
        let behind = Buffer::from(behind);
        let marks = memchr2_iter(self.eol, self.quote.unwrap_or(self.eol), &behind);
        let ends = marks.filter(|mark| {
            let is_end = behind[*mark] == self.eol;
            is_inside ^= !is_end;
            is_end && !is_inside
        });
        ends.map(|end| end + 1).take(TRIED).find(|begin| self.can_begin(&behind.clone().sliced(*begin..)))
    }

    /// Whether a piece that begins so is read as its file is.
    fn can_begin(&self, piece: &Buffer<u8>) -> bool {
        // Its first line is here as a whole, and does not look compressed to Polars.
        if memchr(self.eol, piece).is_none() || SupportedCompression::check(piece).is_some() {
            return false;
        }
        match &self.names {
            None => true,
            // Nothing of it may be taken for what a file begins with.
            Some((names, options)) => columns(piece, options).is_some_and(|(some, start)| some == *names && start == 0),
        }
    }
}

/// The names of the columns that Polars finds in a file that begins so, and where its first line with values begins.
fn columns(head: &Buffer<u8>, options: &CsvReadOptions) -> Option<(Vec<PlSmallStr>, usize)> {
    // Polars looks for the dtypes, too: a header says by itself how many columns there are.
    let lines = if options.has_header { Some(1) } else { options.infer_schema_length };
    let options = CsvReadOptions { infer_schema_length: lines, raise_if_empty: false, ..options.clone() };
    let mut reader = CompressedReader::try_new(head.clone()).ok()?;
    let (schema, rest) =
        read_until_start_and_infer_schema_from_compressed_reader(&options, None, None, &mut reader).ok()?;
    // It is a part of what was given.
    let start = (rest.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    let is_part = !rest.is_empty() && head.get(start..).is_some_and(|bytes| bytes.starts_with(&rest));
    is_part.then(|| (schema.iter_names_cloned().collect(), start))
}

/// How a piece is read that does not begin where its file does.
fn of_piece(options: &CsvReadOptions, names: &[PlSmallStr]) -> CsvReadOptions {
    // What they are the plan says, or nobody asks.
    let schema = names.iter().map(|name| Field::new(name.clone(), DataType::String)).collect();
    CsvReadOptions {
        has_header: false,
        skip_rows: 0,
        skip_lines: 0,
        skip_rows_after_header: 0,
        schema: Some(Arc::new(schema)),
        column_names_overwrite: None,
        ..options.clone()
    }
}

/// Has a scan of one file read only these bytes of it, which are lines, and says which file that is.
///
/// # Errors
/// It cannot be read from here, or is not what it was when these lines were found in it.
pub(crate) fn read_lines(scan: &mut IR, lines: &Range<u64>) -> PolarsResult<Option<String>> {
    let IR::Scan { sources, scan_type, .. } = scan else { return Ok(None) };
    let ScanSources::Paths(paths) = &*sources else { return Ok(None) };
    let Some(path) = paths.first().cloned() else { return Ok(None) };
    let all = ScanSource::Path(path.clone()).as_scan_source_ref().to_buffer_async_assume_latest(false)?;
    let changed = || {
        polars_err!(
            ComputeError: "{path} is not what it was when the query was planned: bytes {} to {} are no lines of it; run the query again",
            lines.start, lines.end
        )
    };
    let (from, to) = (lines.start as usize, lines.end as usize);
    let begins_one = |eol: u8| from == 0 || all.get(from - 1) == Some(&eol);
    if from >= to || to > all.len() {
        return Err(changed());
    }
    let piece = all.clone().sliced(from..to);
    match &mut **scan_type {
        FileScanIR::Csv { options } if begins_one(options.parse_options.eol_char) => {
            if from > 0 {
                let (names, _) =
                    columns(&all.clone().sliced(..all.len().min(HEAD as usize)), options).ok_or_else(changed)?;
                let of_piece = of_piece(options, &names);
                if columns(&piece, &of_piece) != Some((names, 0)) {
                    return Err(changed());
                }
                *options = Arc::new(of_piece);
            }
        }
        FileScanIR::NDJson { .. } if begins_one(b'\n') => (),
        _ => return Err(changed()),
    }
    *sources = ScanSources::Buffers([piece].into_iter().collect());
    Ok(Some(path.to_string()))
}

#[cfg(test)]
mod tests;
