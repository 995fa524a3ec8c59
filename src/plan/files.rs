//! What is known of a file before it is read: the parts of it that can be read alone.

use std::fs::File;
use std::path::Path;

use polars::prelude::*;
use polars_arrow::io::ipc::read::{get_row_count_from_blocks, read_file_metadata};
use polars_io::prelude::{FileMetadata, ParquetReader};
use polars_plan::dsl::FileScanIR;

use super::text::{self, End};

/// A file of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// Row groups, or record batches.
    Parts(Vec<Part>),
    /// Text, whose rows are not counted: where each piece of it ends, the last where the file does.
    Text(Vec<End>),
    /// It cannot be looked into from here: its task reads it, or reports why not.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: usize,
    /// Those of the columns that are wanted, as they will be in memory; or all as on disk, where that is not known.
    pub(super) bytes: u64,
}

impl Layout {
    /// `wanted`: the columns that are read; all, if that is not said. Of text only the size is asked for.
    pub(super) fn of(path: &Path, format: &FileScanIR, wanted: Option<&Schema>) -> Self {
        let parts = match format {
            FileScanIR::Parquet { .. } => row_groups(path, wanted),
            FileScanIR::Ipc { .. } => record_batches(path),
            _ => {
                let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
                return file.map_or(Self::Unknown, |file| Self::Text(vec![End::new(file.len(), &[])]));
            }
        };
        parts.map_or(Self::Unknown, Self::Parts)
    }

    /// Where text can be cut.
    pub(super) fn cut(path: &Path, format: &FileScanIR) -> Self {
        text::ends(path, format).map_or(Self::Unknown, Self::Text)
    }

    /// The `file`-th file of a scan of an object store, by the footers that Polars has read for its plan.
    pub(super) fn remote(file: usize, format: &FileScanIR, wanted: Option<&Schema>) -> Self {
        let FileScanIR::Parquet { first_metadata, metadata_per_source, .. } = format else { return Self::Unknown };
        let footer = match metadata_per_source {
            Some(footers) => footers.get(file),
            None => first_metadata.as_ref().filter(|_| file == 0),
        };
        footer.map_or(Self::Unknown, |footer| Self::Parts(parts_of(footer, wanted)))
    }

    pub(super) fn rows(&self) -> Option<usize> {
        match self {
            Self::Parts(parts) => Some(parts.iter().map(|part| part.rows).sum()),
            Self::Text(_) | Self::Unknown => None,
        }
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Parts(parts) => Some(parts.iter().map(|part| part.bytes).sum()),
            Self::Text(ends) => ends.last().map(|end| end.at),
            Self::Unknown => None,
        }
    }
}

fn row_groups(path: &Path, wanted: Option<&Schema>) -> Option<Vec<Part>> {
    let mut reader = ParquetReader::new(File::open(path).ok()?);
    Some(parts_of(reader.get_metadata().ok()?, wanted))
}

fn parts_of(footer: &FileMetadata, wanted: Option<&Schema>) -> Vec<Part> {
    let parts = footer.row_groups.iter().map(|group| {
        let columns = group.parquet_columns().iter().filter(|column| match wanted {
            Some(wanted) => column.descriptor().path_in_schema.first().is_some_and(|root| wanted.contains(root)),
            None => true,
        });
        let bytes: u64 = columns.map(|column| u64::try_from(column.uncompressed_size()).unwrap_or_default()).sum();
        // Rows of which no column is read are counted.
        Part { rows: group.num_rows(), bytes: bytes.max(group.num_rows() as u64) }
    });
    parts.collect()
}

fn record_batches(path: &Path) -> Option<Vec<Part>> {
    let mut file = File::open(path).ok()?;
    let blocks = read_file_metadata(&mut file).ok()?.blocks;
    let parts = blocks.iter().map(|block| {
        let rows = get_row_count_from_blocks(&mut file, std::slice::from_ref(block)).ok()?;
        Some(Part { rows: usize::try_from(rows).ok()?, bytes: u64::try_from(block.body_length).ok()? })
    });
    parts.collect()
}
