use std::collections::BTreeMap;

use super::*;

/// Keys 0 and 1 from a run before.
fn scene(target: &Path) -> BTreeMap<PathBuf, String> {
    for key in ["k=0", "k=1"] {
        fs::create_dir_all(target.join(key)).unwrap();
        fs::write(target.join(key).join("00000-00000000.parquet"), "old").unwrap();
    }
    all(target)
}

/// Every file below, but for what is staged.
fn all(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        match path.is_dir() {
            true if FileSink::is_staging(&path) => (),
            true => found.extend(all(&path)),
            false => _ = found.insert(path.clone(), fs::read_to_string(&path).unwrap()),
        }
    }
    found
}

fn publication(target: &Path, mode: SinkMode, scratch: &Scratch) -> Publication {
    let sink = FileSink { target: target.to_owned(), is_folder: true, mkdir: true };
    Publication::prepare(sink, mode, QueryId(7), scratch).unwrap()
}

/// Stages new files; the listing that names them.
fn staged(publication: &Publication, names: &[&str]) -> DataFrame {
    let at = |index: usize| publication.staging.folder().join(index.to_string());
    (0..names.len()).for_each(|index| fs::write(at(index), "new").unwrap());
    let paths: Vec<_> = (0..names.len()).map(|index| at(index).to_str().unwrap().to_owned()).collect();
    listing(&paths, names)
}

fn listing(staged: &[String], names: &[&str]) -> DataFrame {
    let files = df!["staged" => staged, "name" => names, "bytes" => vec![3u64; names.len()]];
    files.unwrap()
}

#[test]
fn a_worker_cannot_name_files_outside_of_the_sink() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = Scratch::create(&[folder.path().to_owned()]).unwrap();
    let (target, other) = (folder.path().join("sink"), folder.path().join("other"));
    fs::write(&other, "x").unwrap();
    for (staged, name) in [("../other", "k=1/f"), ("f", "../f"), ("f", "/f")] {
        let publication = publication(&target, SinkMode::Error, &scratch);
        fs::write(publication.staging.folder().join("f"), "x").unwrap();
        let staged = publication.staging.folder().join(staged);
        let error = publication.publish(vec![listing(&[staged.to_str().unwrap().to_owned()], &[name])]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("outside"), "{error}");
    }
    assert!(other.exists() && !target.exists(), "nothing was moved, nothing is left");
}

#[test]
fn when_one_file_cannot_be_published_none_is_and_what_was_there_stays() {
    for (beside, mode) in [(true, SinkMode::Overwrite), (true, SinkMode::Append), (false, SinkMode::Overwrite)] {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(&[base.path().to_owned()]).unwrap();
        let target = if beside { base.path().join("sink") } else { linked(base.path()) };
        let before = scene(&target);
        let publication = publication(&target, mode, &scratch);
        assert_eq!(publication.is_beside(), beside);
        let names = staged(&publication, &["k=1/f", "k=2/g"]);
        fs::remove_file(publication.staging.folder().join("1")).unwrap();
        let error = publication.publish(vec![names]).unwrap_err().to_string();
        assert!(error.contains("None of them is there, and what was there still is"), "{error}");
        assert_eq!(all(&target), before, "{mode:?}");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 2, "neither folders nor what was staged");
    }
}

/// A sink's folder that is a link, so that what is beside it is somewhere else.
fn linked(base: &Path) -> PathBuf {
    fs::create_dir(base.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(base.join("elsewhere"), base.join("sink")).unwrap();
    base.join("sink")
}

/// What is to be there after a run of this mode.
fn wanted(target: &Path, mode: SinkMode, before: &BTreeMap<PathBuf, String>) -> usize {
    let after = all(target);
    assert_eq!(after.values().filter(|text| *text == "new").count(), 2);
    let olds = before.iter().filter(|(path, _)| after.get(*path).is_some_and(|text| text == "old")).count();
    assert_eq!(olds, if mode == SinkMode::Append { 2 } else { 0 }, "{after:?}");
    after.len()
}

#[test]
fn overwriting_leaves_the_new_files_alone_and_appending_all() {
    for (beside, mode) in
        [(true, SinkMode::Overwrite), (true, SinkMode::Append), (false, SinkMode::Overwrite), (false, SinkMode::Append)]
    {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(&[base.path().to_owned()]).unwrap();
        let target = if beside { base.path().join("sink") } else { linked(base.path()) };
        let before = scene(&target);
        let publication = publication(&target, mode, &scratch);
        let listing = staged(&publication, &["k=1/00000-00000000.parquet", "k=2/00000-00000000.parquet"]);
        let said = publication.publish(vec![listing]).unwrap();
        assert!(said.column("path").unwrap().str().unwrap().iter().flatten().all(|path| Path::new(path).exists()));
        let files = wanted(&target, mode, &before);
        assert_eq!(files, if mode == SinkMode::Append { 4 } else { 2 });
        assert!(fs::read_dir(base.path()).unwrap().flatten().all(|entry| !FileSink::is_staging(&entry.path())));
    }
}

/// A kill leaves the files as they are between two renames. Whoever sweeps the session's folder then undoes them.
#[test]
fn a_kill_between_any_two_renames_leaves_what_was_there_or_what_was_to_be() {
    for (beside, mode) in [(true, SinkMode::Append), (false, SinkMode::Append), (false, SinkMode::Overwrite)] {
        for done in 0.. {
            let base = tempfile::tempdir().unwrap();
            let scratch = Scratch::create(&[base.path().to_owned()]).unwrap();
            let target = if beside { base.path().join("sink") } else { linked(base.path()) };
            let before = scene(&target);
            let publication = publication(&target, mode, &scratch);
            let names = ["k=1/f", "k=2/g"];
            staged(&publication, &names);
            let moves = names.iter().enumerate();
            let moves = moves.map(|(i, name)| (publication.staging.folder().join(i.to_string()), target.join(name)));
            let steps = publication.steps(moves.collect()).unwrap();
            publication.staging.begin(&steps).unwrap();
            let steps: Vec<_> = steps.iter().take(done).collect();
            steps.iter().for_each(|step| step.carry_out().unwrap());
            std::mem::forget(publication);
            drop(scratch);
            assert_eq!(all(&target), before, "{mode:?} after {done} steps");
            if steps.len() < done {
                break;
            }
        }
    }
}

#[test]
fn where_a_file_system_cannot_swap_folders_a_kill_between_the_two_renames_is_undone() {
    let base = tempfile::tempdir().unwrap();
    let target = base.path().join("sink");
    let before = scene(&target);
    for done in 0..=2 {
        let scratch = Scratch::create(&[base.path().to_owned()]).unwrap();
        let publication = publication(&target, SinkMode::Overwrite, &scratch);
        let (whole, old) = (publication.staging.folder().join(WHOLE), publication.staging.folder().join(OLD));
        fs::create_dir(&whole).unwrap();
        let steps = publication.replace(&whole, &target);
        assert_eq!(steps, [Step::Move(target.clone(), old), Step::Move(whole, target.clone())]);
        publication.staging.begin(&steps).unwrap();
        steps.iter().take(done).for_each(|step| step.carry_out().unwrap());
        std::mem::forget(publication);
        drop(scratch);
        assert_eq!(all(&target), before, "after {done} renames");
    }
}

#[test]
fn a_folder_that_holds_something_is_an_error_before_and_after_and_an_empty_one_is_not() {
    let base = tempfile::tempdir().unwrap();
    let scratch = Scratch::create(&[base.path().to_owned()]).unwrap();
    for target in [base.path().join("sink"), {
        fs::create_dir(base.path().join("x")).unwrap();
        linked(&base.path().join("x"))
    }] {
        fs::create_dir_all(&target).unwrap();
        let publication = publication(&target, SinkMode::Error, &scratch);
        let listing = staged(&publication, &["k=1/f"]);
        let before = scene(&target);
        let error = publication.publish(vec![listing]).unwrap_err();
        assert!(matches!(&error, Error::Sink(SinkError::Taken { .. })), "{error}");
        assert_eq!(all(&target), before);
        let sink = FileSink { target: target.clone(), is_folder: true, mkdir: true };
        let error = Publication::prepare(sink, SinkMode::Error, QueryId(8), &scratch).unwrap_err().to_string();
        assert!(error.contains("SinkMode::Append") && error.contains("SinkMode::Overwrite"), "{error}");
    }
}
