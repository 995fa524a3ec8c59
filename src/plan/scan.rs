//! Splitting a Parquet scan by file and by row group.

use std::fs::File;

use polars::prelude::*;
use polars_io::prelude::ParquetReader;
use polars_plan::dsl::{FileScanIR, ScanSources};
use polars_plan::plans::IR;

use super::Split;

/// How a scan is split, and why so.
#[derive(Clone)]
pub(super) struct Splits {
    pub(super) splits: Vec<Split>,
    pub(super) why: String,
}

impl Splits {
    pub(super) fn whole(why: impl Into<String>) -> Self {
        Self { splits: vec![Split::Whole], why: why.into() }
    }

    pub(super) fn shares(of: usize) -> Self {
        let splits = (0..of).map(|part| Split::Share { part, of }).collect();
        Self { splits, why: "equal shares of the rows below".to_owned() }
    }
}

/// Splits a frame into `pieces` of equal row counts; into one for each row, if there are fewer rows.
pub(super) fn split_frame(frame: &DataFrame, pieces: usize) -> Splits {
    let (rows, pieces) = (frame.height(), pieces.min(frame.height()).max(1));
    let border = |piece: usize| (rows as u128 * piece as u128 / pieces as u128) as usize;
    let splits = (0..pieces).map(|piece| {
        let offset = border(piece);
        Split::Slice { offset, len: border(piece + 1) - offset }
    });
    Splits { splits: splits.collect(), why: format!("a frame of the driver with {rows} rows") }
}

/// Splits a scan into about `tasks` pieces of equal row counts.
pub(super) fn split(scan: &IR, tasks: usize) -> Splits {
    if tasks <= 1 {
        return Splits::whole("one worker with all threads");
    }
    let IR::Scan { sources, scan_type, unified_scan_args: args, .. } = scan else {
        return Splits::whole("its input is not a scan");
    };
    if !matches!(**scan_type, FileScanIR::Parquet { .. }) {
        return Splits::whole("only Parquet scans are split");
    }
    if args.pre_slice.is_some() || args.row_index.is_some() || args.deletion_files.is_some() {
        return Splits::whole("the scan has a slice, a row index or deletion files, which count rows across files");
    }
    let ScanSources::Paths(paths) = sources else {
        return Splits::whole("the scan reads memory of the driver");
    };
    let counts = paths.iter().map(|path| if path.has_scheme() { None } else { row_groups(path.as_std_path()) });
    let files: Vec<_> = counts.collect();
    let total: usize = files.iter().flatten().flatten().sum();
    let share = total.div_ceil(tasks).max(1);
    let splits = group(&files, share);
    let groups: usize = files.iter().flatten().map(Vec::len).sum();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let why = format!("{} file{}, {groups} row group{}", files.len(), plural(files.len()), plural(groups));
    Splits { splits, why }
}

/// Rows of each row group. A footer that cannot be read leaves the file whole: its task reports the error.
fn row_groups(path: &std::path::Path) -> Option<Vec<usize>> {
    let mut reader = ParquetReader::new(File::open(path).ok()?);
    let metadata = reader.get_metadata().ok()?;
    Some(metadata.row_groups.iter().map(|group| group.num_rows()).collect())
}

// Small files are put together until they hold `share` rows; a large one is cut at row groups.
fn group(files: &[Option<Vec<usize>>], share: usize) -> Vec<Split> {
    let mut splits = Vec::new();
    let (mut together, mut rows_together) = (Vec::new(), 0);
    for (file, groups) in files.iter().enumerate() {
        let rows = groups.as_ref().map_or(share, |g| g.iter().sum());
        if let Some(groups) = groups.as_ref().filter(|g| g.len() > 1 && rows > share) {
            flush(&mut together, &mut rows_together, &mut splits);
            cut_file(file, groups, share, &mut splits);
            continue;
        }
        together.push(file);
        rows_together += rows;
        if rows_together >= share {
            flush(&mut together, &mut rows_together, &mut splits);
        }
    }
    flush(&mut together, &mut rows_together, &mut splits);
    if splits.is_empty() { vec![Split::Whole] } else { splits }
}

fn flush(together: &mut Vec<usize>, rows: &mut usize, splits: &mut Vec<Split>) {
    *rows = 0;
    if !together.is_empty() {
        splits.push(Split::Files(std::mem::take(together)));
    }
}

fn cut_file(file: usize, groups: &[usize], share: usize, splits: &mut Vec<Split>) {
    let (mut offset, mut len) = (0, 0);
    for rows in groups {
        // Close a piece when this group would take it further from its share than it is.
        if len > 0 && len + rows / 2 >= share {
            splits.push(Split::Rows { file, offset, len });
            (offset, len) = (offset + len, 0);
        }
        len += rows;
    }
    splits.push(Split::Rows { file, offset, len });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of every file that the splits cover, in order.
    fn covered(files: &[Option<Vec<usize>>], splits: &[Split]) -> Vec<(usize, usize, usize)> {
        let whole = |f: &usize| (*f, 0, files[*f].as_ref().map_or(0, |g| g.iter().sum()));
        let pieces = splits.iter().flat_map(|split| match split {
            Split::Whole => (0..files.len()).map(|f| whole(&f)).collect(),
            Split::Files(files) => files.iter().map(whole).collect(),
            Split::Rows { file, offset, len } => vec![(*file, *offset, *len)],
            other => panic!("no split of files: {other}"),
        });
        pieces.collect()
    }

    #[test]
    fn splits_cover_every_row_once_in_order_and_end_at_row_groups() {
        for seed in 0..500u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = |n: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % n) as usize
            };
            let files: Vec<_> = (0..=next(6))
                .map(|_| (next(8) > 0).then(|| (0..next(9)).map(|_| next(1000)).collect::<Vec<_>>()))
                .collect();
            let share = 1 + next(2000);
            let splits = group(&files, share);
            let pieces = covered(&files, &splits);
            let mut at = (0, 0);
            for (file, offset, len) in pieces {
                if file != at.0 {
                    assert_eq!(file, at.0 + 1, "seed {seed}: files in order, none left out");
                    at = (file, 0);
                }
                assert_eq!(offset, at.1, "seed {seed}: no gap, no overlap");
                at.1 += len;
                let groups = files[file].clone().unwrap_or_default();
                let ends: Vec<usize> = groups
                    .iter()
                    .scan(0, |sum, rows| {
                        *sum += rows;
                        Some(*sum)
                    })
                    .collect();
                assert!(at.1 == 0 || ends.contains(&at.1), "seed {seed}: {at:?} is no row group's end of {ends:?}");
            }
            assert_eq!(at.0, files.len() - 1, "seed {seed}: every file");
            assert_eq!(at.1, files[at.0].iter().flatten().sum::<usize>(), "seed {seed}: to its end");
        }
    }
}
