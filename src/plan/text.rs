//! Text that is cut at the ends of lines: a piece of a file is read as if it were a file.
//!
//! A line of CSV may end inside of quotes, and then it is none. As Polars does, each quote is taken to open or to close: whoever knows
//! how many stand before a byte knows whether it is inside. So the quotes of a file are counted once where the query is planned, by
//! all threads, which costs a small part of what reading it does. Lines of JSON hold no line's end, so nothing of them is counted.
//! But where Polars reads the fields of a line, a quote within a field that does not begin with one is a character like others. If
//! the two may come to different lines, what Polars reads depends on where it has begun: such a file is read whole.
//!
//! What a file begins with is in its first piece only. The others are told the names of its columns, and begin at a line in which Polars
//! finds all of them.

mod quotes;

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use memchr::memchr2_iter;
use polars::prelude::*;
use polars_buffer::Buffer;
use polars_core::runtime::THREAD_POOL;
use polars_io::prelude::{CsvReadOptions, SplitLines, read_until_start_and_infer_schema_from_compressed_reader};
use polars_io::utils::compression::{CompressedReader, SupportedCompression};
use polars_plan::dsl::{FileScanIR, ScanSource, ScanSources};
use polars_plan::plans::IR;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use quotes::{Quotes, State};

/// What is looked at of a file's beginning, and of the bytes behind a place where it may be cut: most lines are short.
const HEAD: u64 = 1 << 20;
const LOOKS: [u64; 2] = [1 << 13, 1 << 18];
/// A file has no more than so many pieces, but for large ones.
const PIECES: u64 = 256;
/// They have so many bytes, but for the last.
const LEAST: u64 = 1 << 12;
const MOST: u64 = 8 << 20;
/// Lines that are tried behind a place before the file is not cut there.
const TRIED: usize = 16;
/// Bytes before the end of a piece by which it is told whether the file is what it was.
const EDGE: u64 = 1 << 12;

/// Where a piece of a file ends, and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) at: u64,
    /// A hash of the bytes before it.
    mark: u64,
}

impl End {
    /// `edge`: the bytes before it, or the last of them.
    pub(super) fn new(at: u64, edge: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&edge[edge.len().saturating_sub(EDGE as usize)..]);
        Self { at, mark: hasher.finish() }
    }

    /// The beginning of a file.
    pub(super) fn none() -> Self {
        Self::new(0, &[])
    }

    fn is_in(self, file: &[u8]) -> bool {
        file.get(..self.at as usize).is_some_and(|before| Self::new(self.at, before) == self)
    }
}

/// Where the pieces of a file end, the last where it does.
///
/// # Errors
/// It cannot be read from here.
pub(super) fn ends(path: &Path, format: &FileScanIR) -> std::io::Result<Vec<End>> {
    // To open what is no file may wait for whoever writes into it, or take from who reads of it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut ends = inner_ends(&file, bytes, format)?.unwrap_or_default();
    ends.push(bytes);
    ends.into_iter().map(|at| Ok(End::new(at, &read(&file, at.saturating_sub(EDGE), at.min(EDGE))?))).collect()
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
        FileScanIR::NDJson { .. } => Lines { eol: b'\n', separator: b'\n', quote: None, start: 0, columns: None },
        _ => return Ok(None),
    };
    let places: Vec<u64> = (1..bytes / piece).map(|place| lines.start + place * piece).collect();
    let Some(is_inside) = lines.are_inside(file, &places, bytes)? else { return Ok(None) };
    let end = |(place, is_inside): (&u64, bool)| lines.begin_behind(file, *place, is_inside);
    let ends: std::io::Result<Vec<_>> = THREAD_POOL.install(|| places.par_iter().zip(is_inside).map(end).collect());
    let mut ends: Vec<u64> = ends?.into_iter().flatten().filter(|end| *end < bytes).collect();
    // A line that is longer than a piece holds several places; and a file may have changed while it was looked at.
    ends.sort_unstable();
    ends.dedup();
    if let (Some((schema, _)), FileScanIR::Csv { options }) = (&lines.columns, format) {
        // The first piece must hold the lines that say how many columns there are.
        let says = |end: u64| columns(&head.clone().sliced(..head.len().min(end as usize)), options);
        let short = ends.partition_point(|end| says(*end).is_none_or(|(some, _)| !are_named_alike(&some, schema)));
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

/// Reads these bytes as long as they are wanted.
fn read_by_and_by(file: &File, range: Range<u64>, mut wants_more: impl FnMut(&[u8]) -> bool) -> std::io::Result<()> {
    let mut from = range.start;
    while from < range.end {
        let some = read(file, from, (range.end - from).min(HEAD))?;
        if some.is_empty() || !wants_more(&some) {
            break;
        }
        from += some.len() as u64;
    }
    Ok(())
}

/// How the lines of a file are told apart.
struct Lines {
    eol: u8,
    separator: u8,
    quote: Option<u8>,
    /// Where the first one with values begins.
    start: u64,
    /// The columns that each piece is told, and how it is read.
    columns: Option<(Schema, CsvReadOptions)>,
}

impl Lines {
    /// None, if only who has read all before knows what a line is.
    fn of_csv(head: &Buffer<u8>, is_all: bool, options: &CsvReadOptions) -> Option<Self> {
        let parse = &options.parse_options;
        let is_end = |quote| quote == parse.eol_char || quote == parse.separator;
        if parse.comment_prefix.is_some() || parse.quote_char.is_some_and(is_end) {
            return None;
        }
        // What Polars ignores depends on where it splits the file: it reads a date as it has read the one before, and where a quote is
        // never closed it makes what rows it can of what follows.
        if options.ignore_errors {
            return None;
        }
        let (schema, start) = columns(head, options)?;
        if !is_all && !options.has_header {
            // Names are those of the longest of the lines that Polars looks at, one at least: they must be here.
            let looked_at = match options.schema {
                Some(_) => 1,
                None => options.infer_schema_length.unwrap_or(usize::MAX).max(1),
            };
            let mut lines = SplitLines::new(&head[start..], parse.quote_char, parse.eol_char, None);
            lines.nth(looked_at)?;
        }
        let of_pieces = of_piece(options, &schema);
        Some(Self {
            eol: parse.eol_char,
            separator: parse.separator,
            quote: parse.quote_char,
            start: start as u64,
            columns: Some((schema, of_pieces)),
        })
    }

    /// Whether each of these places, in order, is inside of quotes; none if Polars may find other lines by its fields.
    fn are_inside(&self, file: &File, places: &[u64], bytes: u64) -> std::io::Result<Option<Vec<bool>>> {
        let Some(quote) = self.quote else { return Ok(Some(vec![false; places.len()])) };
        // Each part is read once, without a word of those before: what is guessed wrongly is soon found to be.
        let guess = |part: usize| {
            let from = if part == 0 { self.start } else { places[part - 1] };
            let before = if part == 0 { self.eol } else { *read(file, from - 1, 1)?.first().unwrap_or(&self.eol) };
            let begin = |state| (state, Quotes::new(quote, [self.eol, self.separator], state, before));
            let mut guesses: Vec<_> = State::some(before, quote).into_iter().map(begin).collect();
            read_by_and_by(file, from..places.get(part).copied().unwrap_or(bytes), |some| {
                guesses.retain_mut(|(_, quotes)| quotes.are_sound_in(some));
                !guesses.is_empty()
            })?;
            Ok(guesses.into_iter().map(|(from, quotes)| (from, quotes.state())).collect())
        };
        let guesses: std::io::Result<Vec<Vec<_>>> =
            THREAD_POOL.install(|| (0..=places.len()).into_par_iter().map(guess).collect());
        let (mut state, mut are_inside) = (State::FIELD, Vec::new());
        for guesses in guesses? {
            let Some((_, to)) = guesses.into_iter().find(|(from, _)| *from == state) else { return Ok(None) };
            state = to;
            are_inside.push(state.is_inside);
        }
        Ok(Some(are_inside))
    }

    /// Where, behind this place, a line begins that a piece can begin with.
    fn begin_behind(&self, file: &File, place: u64, is_inside: bool) -> std::io::Result<Option<u64>> {
        for look in LOOKS {
            if let Some(within) = self.begin_of_one(read(file, place, look)?, is_inside) {
                return Ok(Some(place + within as u64));
            }
        }
        Ok(None)
    }

    /// Likewise, in these bytes.
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
        let first = SplitLines::new(piece, self.quote, self.eol, None).next();
        // Its first line is here as a whole, and does not look compressed to Polars.
        if first.is_none_or(|line| line.len() == piece.len()) || SupportedCompression::check(piece).is_some() {
            return false;
        }
        self.columns.as_ref().is_none_or(|(schema, options)| begins_with_values(piece, schema, options))
    }
}

fn are_named_alike(some: &Schema, others: &Schema) -> bool {
    some.iter_names().eq(others.iter_names())
}

/// Whether Polars finds these columns in the first line of a piece, and takes nothing of it for what a file begins with.
fn begins_with_values(piece: &Buffer<u8>, schema: &Schema, options: &CsvReadOptions) -> bool {
    columns(piece, options).is_some_and(|(some, start)| are_named_alike(&some, schema) && start == 0)
}

/// The columns that Polars finds in a file that begins so, and where its first line with values begins.
fn columns(head: &Buffer<u8>, options: &CsvReadOptions) -> Option<(Schema, usize)> {
    // It makes room for as many lines.
    let lines = options.infer_schema_length.map(|lines| lines.min(head.len()));
    let options = CsvReadOptions { infer_schema_length: lines, raise_if_empty: false, ..options.clone() };
    let mut reader = CompressedReader::try_new(head.clone()).ok()?;
    let (schema, rest) =
        read_until_start_and_infer_schema_from_compressed_reader(&options, None, None, &mut reader).ok()?;
    // It is a part of what was given.
    let start = (rest.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    let is_part = !rest.is_empty() && head.get(start..).is_some_and(|bytes| bytes.starts_with(&rest));
    is_part.then_some((schema, start))
}

/// How a piece is read that does not begin where its file does.
fn of_piece(options: &CsvReadOptions, schema: &Schema) -> CsvReadOptions {
    CsvReadOptions {
        has_header: false,
        skip_rows: 0,
        skip_lines: 0,
        skip_rows_after_header: 0,
        schema: Some(Arc::new(schema.clone())),
        column_names_overwrite: None,
        ..of_dtypes(options, schema)
    }
}

/// How one is read that does: its few lines may not say of what dtypes the columns are. Those of columns that are read the plan says, but
/// whether there is a string among the others decides whether Polars looks for bytes that are no UTF-8.
fn of_dtypes(options: &CsvReadOptions, schema: &Schema) -> CsvReadOptions {
    CsvReadOptions { dtype_overwrite: Some(Arc::new(schema.iter_values().cloned().collect())), ..options.clone() }
}

/// Has a scan of one file read only these bytes of it, which are lines, and says which file that is.
///
/// # Errors
/// It cannot be read from here, or is not what it was when these lines were found in it.
pub(crate) fn read_lines(scan: &mut IR, from: End, to: End) -> PolarsResult<Option<String>> {
    let IR::Scan { sources, scan_type, .. } = scan else { return Ok(None) };
    let ScanSources::Paths(paths) = &*sources else { return Ok(None) };
    let Some(path) = paths.first().cloned() else { return Ok(None) };
    let all = ScanSource::Path(path.clone()).as_scan_source_ref().to_buffer_async_assume_latest(false)?;
    let changed = || {
        polars_err!(
            ComputeError: "{path} is not what it was when the query was planned: bytes {} to {} are no lines of it; run the query again",
            from.at, to.at
        )
    };
    if from.at >= to.at || !from.is_in(&all) || !to.is_in(&all) {
        return Err(changed());
    }
    let piece = all.clone().sliced(from.at as usize..to.at as usize);
    if let FileScanIR::Csv { options } = &mut **scan_type {
        let head = all.clone().sliced(..all.len().min(HEAD as usize));
        let (schema, _) = columns(&head, options).ok_or_else(changed)?;
        let of_this = if from.at == 0 { of_dtypes(options, &schema) } else { of_piece(options, &schema) };
        if from.at > 0 && !begins_with_values(&piece, &schema, &of_this) {
            return Err(changed());
        }
        *options = Arc::new(of_this);
    }
    *sources = ScanSources::Buffers([piece].into_iter().collect());
    Ok(Some(path.to_string()))
}

#[cfg(test)]
mod tests;
