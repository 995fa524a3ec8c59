//! Rows that are in no store of who made them: few go along with what is said of them, to whoever reads them, and those of this process are
//! handed over.

use bytes::Bytes;
use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::Store;
use super::form::{ALIGN, Form};
use super::output::{Block, Chosen, Data, Sealed, check};
use super::serve::{HEAD_PREFIX, Head, Listed, head_size};
use crate::error::TaskFailure;
use crate::sched::{Output, PartitionId, WorkerId};

/// Where the rows of an output are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) enum Rows {
    /// In the store of who made it.
    #[default]
    Kept,
    /// They are few, and these: what a transfer of them would bring.
    Along(#[serde(with = "crate::blob")] Vec<u8>),
    #[serde(skip)]
    Here(DataFrame),
}

/// So many bytes go along, at most: a transfer of them would take longer than all the rest, and many fit into one message.
const ALONG: usize = 4 << 10;

impl Rows {
    /// These blocks, which lie one after the other, if they are few enough to go along.
    pub(super) fn along(mark: u32, blocks: &[Block], bytes: &[u8]) -> Option<Self> {
        let start = blocks.first().map_or(0, |block| block.offset);
        let placed = blocks.iter().map(|block| Block { offset: block.offset - start, ..*block });
        let chosen = placed.map(|block| Chosen { block, from: 0, rows: block.rows }).collect();
        let head = Head { files: Vec::new(), outputs: vec![Some(Listed { mark, file: None, chosen })] }.encode();
        let along = [&head, bytes].concat();
        (along.len() <= ALONG).then_some(Self::Along(along))
    }
}

/// The blocks that came along, where they lie in what follows, and their form.
fn blocks(along: &[u8]) -> Option<(u32, Vec<Block>, &[u8])> {
    let (prefix, rest) = along.split_first_chunk::<HEAD_PREFIX>()?;
    let (head, bytes) = rest.split_at_checked(head_size(*prefix))?;
    let Listed { mark, chosen, .. } = Head::decode(head, 1)?.outputs.pop()??;
    let mut end = 0;
    let placed = chosen.into_iter().map(|Chosen { block: Block { rows, len, crc, .. }, .. }| {
        let offset = end;
        end += len as usize;
        check(bytes.get(offset..end)?, crc).ok()?;
        (len as usize).is_multiple_of(ALIGN).then_some(Block { section: 0, rows, len, crc, offset: offset as u64 })
    });
    let placed = placed.collect::<Option<_>>()?;
    (end == bytes.len()).then_some((mark, placed, bytes))
}

impl Store {
    /// Takes in what came along with an output, as if it had been made here.
    ///
    /// # Errors
    /// It is not what was said of it, or there is no room for it.
    pub(crate) fn take_in(&self, output: Output, from: WorkerId, along: &[u8]) -> Result<(), TaskFailure> {
        let rows = |blocks: &[Block]| blocks.iter().map(|block| u64::from(block.rows)).sum::<u64>();
        let found = blocks(along).filter(|(_, blocks, _)| rows(blocks) == output.rows && along.len() <= ALONG);
        let (mark, mut blocks, bytes) = found.ok_or_else(|| TaskFailure::Transfer {
            from: from.to_string(),
            why: "what came along with the end of a task is not what was said of it".to_owned(),
        })?;
        let data = match self.small.take(bytes.len() as u64) {
            Some(charge) => Data::Memory(Bytes::copy_from_slice(bytes), charge),
            None => {
                let file = self.file(output.id.task)?;
                let start = file.append([bytes].into_iter())?.start;
                blocks.iter_mut().for_each(|block| block.offset += start);
                Data::File(file)
            }
        };
        self.insert(output.id, Sealed::new(mark, blocks, vec![0], data).brought());
        Ok(())
    }

    /// Takes out what came along with an output, for a reader elsewhere.
    pub(crate) fn hand_on(&self, id: PartitionId) -> Rows {
        let Some((_, sealed)) = self.outputs.remove(&id) else { return Rows::Kept };
        let start = sealed.blocks.first().map_or(0, |block| block.offset);
        let bytes = sealed.read(start..sealed.end().max(start)).unwrap_or_default();
        Rows::along(sealed.mark, &sealed.blocks, &bytes).unwrap_or_default()
    }

    /// The rows of an output that is in the memory of this process; `None`: it is not.
    pub(crate) fn at_hand(&self, id: PartitionId, form: &Form) -> Option<PolarsResult<DataFrame>> {
        let sealed = self.get(id).filter(|sealed| sealed.mark == form.mark() && sealed.file().is_none())?;
        let mut rows = DataFrame::empty_with_schema(form.schema());
        for block in &sealed.blocks {
            let block = sealed.map(block).map_err(PolarsError::from).and_then(|block| form.decode(&block));
            if let Err(error) = block.and_then(|block| rows.vstack_mut_owned(block).map(drop)) {
                return Some(Err(error));
            }
        }
        Some(Ok(rows))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sched::{Attempt, QueryId, StageId, TaskId};

    fn id(index: u32) -> PartitionId {
        let task = TaskId { query: QueryId(1), stage: StageId(0), index };
        PartitionId { task, attempt: Attempt(1) }
    }

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        (folder, store)
    }

    /// What is made of a frame whose rows may go along.
    fn sealed(store: &Arc<Store>, index: u32, frame: &DataFrame) -> (Output, Rows) {
        let mut writer = store.writer(id(index), &Form::new(frame.schema()));
        writer.write(0, frame.clone()).unwrap();
        writer.seal_along().unwrap()
    }

    fn few() -> DataFrame {
        let list = Column::new("list".into(), [Series::new("".into(), [1i64]), Series::new("".into(), [2i64, 3])]);
        DataFrame::new_infer_broadcast(vec![Column::new("word".into(), ["one", "another"]), list]).unwrap()
    }

    #[test]
    fn few_rows_go_along_through_any_number_of_hands_and_more_stay() {
        let ((_a, worker), (_b, head), (_c, driver)) = (store(), store(), store());
        for (index, frame) in [few(), few().clear()].into_iter().enumerate() {
            let (output, rows) = sealed(&worker, index as u32, &frame);
            let Rows::Along(along) = rows else { panic!("{rows:?}") };
            assert_eq!((worker.held(), output.rows), (0, frame.height() as u64));
            head.take_in(output, WorkerId(0), &along).unwrap();
            let Rows::Along(along) = head.hand_on(output.id) else { panic!("it is there") };
            driver.take_in(output, WorkerId::DRIVER, &along).unwrap();
            let read = driver.at_hand(output.id, &Form::new(frame.schema())).unwrap().unwrap();
            assert!(read.equals(&frame) && read.schema() == frame.schema(), "{read}");
            assert!(matches!(head.hand_on(output.id), Rows::Kept));
            assert_eq!(head.held(), 0);
            driver.drop_attempt(output.id.task, Attempt(1));
        }
        assert_eq!(driver.held(), 0);
        let more = df!["n" => (0..1000i64).collect::<Vec<_>>()].unwrap();
        assert!(matches!(sealed(&worker, 9, &more), (Output { rows: 1000, .. }, Rows::Kept)));
        assert_eq!(worker.held(), 1);
    }

    #[test]
    fn without_room_in_memory_what_comes_along_is_in_a_file_and_as_good() {
        let ((_a, worker), (folder, head)) = (store(), store());
        let taken = head.small.take(super::super::SMALL_MOST.min(crate::os::memory() / super::super::SMALL_SHARE));
        assert!(taken.is_some());
        let (output, rows) = sealed(&worker, 0, &few());
        let Rows::Along(along) = rows else { panic!("{rows:?}") };
        for index in 0..3 {
            head.take_in(Output { id: id(index), ..output }, WorkerId(0), &along).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(head.at_hand(id(1), &Form::new(few().schema())).is_none(), "it is not in memory");
        let Rows::Along(again) = head.hand_on(id(1)) else { panic!("it is there") };
        assert_eq!(again, along);
    }

    #[test]
    fn what_is_not_as_was_said_of_it_is_not_taken_in() {
        let ((_a, worker), (_b, head)) = (store(), store());
        let (output, rows) = sealed(&worker, 0, &few());
        let Rows::Along(along) = rows else { panic!("{rows:?}") };
        let refused = |output, along: &[u8]| {
            let failure = head.take_in(output, WorkerId(7), along).unwrap_err();
            assert!(failure.is_retryable() && failure.to_string().contains("worker 7"), "{failure}");
        };
        refused(Output { rows: 3, ..output }, &along);
        refused(output, &[]);
        (0..along.len()).step_by(7).for_each(|end| refused(output, &along[..end]));
        let mut changed = along.clone();
        *changed.last_mut().unwrap() ^= 1;
        refused(output, &changed);
        refused(output, &[&along[..], &[0; 64]].concat());
        refused(output, &[&along[..], &[0; ALONG]].concat());
        assert_eq!(head.held(), 0);
        head.take_in(output, WorkerId(7), &along).unwrap();
    }
}
