//! The crate is a house: `src/lib.rs` lists its floors from the ground up, and imports point down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The last floor that knows neither QUIC nor actors, by one of its modules.
const GROUND: &str = "link";

/// Modules by their floor, as `lib.rs` lists them: a blank line is between two floors.
fn floors(src: &Path) -> Vec<Vec<String>> {
    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    let floors = lib.split("\n\n").map(|floor| {
        let names = floor.lines().filter_map(|line| {
            line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
        });
        names.collect::<Vec<_>>()
    });
    floors.filter(|floor| !floor.is_empty() && floor != &["panics"]).collect()
}

/// The code of a module and of all inside it, without its tests and comments.
fn code(src: &Path, module: &str) -> String {
    let mut files = vec![src.join(format!("{module}.rs"))];
    let mut folders = vec![src.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("tests.rs") => (),
                false => files.push(path),
            }
        }
    }
    files.iter().map(|file: &PathBuf| without_tests(&fs::read_to_string(file).unwrap())).collect()
}

fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

/// The modules of the crate that some code names.
fn imports(code: &str, known: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        if code[..at].ends_with(['$', '_']) {
            continue; // in a macro for others, or of another crate
        }
        let names = rest.strip_prefix('{').map_or(rest, |group| group.split('}').next().unwrap_or_default());
        let names = if rest.starts_with('{') { names.split(',').collect() } else { vec![names] };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name == "messages" {
                found.insert("message".to_owned());
            } else if name != "panics" && !name.is_empty() {
                assert!(
                    known.contains(name.as_str()),
                    "crate::{name} is imported from where it is not: name its module"
                );
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn imports_point_down_and_the_ground_floors_know_no_network_and_no_actors() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors = floors(&src);
    let floor_of: BTreeMap<&str, usize> = (0..)
        .zip(&floors)
        .flat_map(|(number, floor)| floor.iter().map(move |module| (module.as_str(), number)))
        .collect();
    let known: BTreeSet<&str> = floor_of.keys().copied().collect();
    let mut graph = BTreeMap::new();
    for (module, floor) in &floor_of {
        let code = code(&src, module);
        let imports = imports(&code, &known);
        for import in &imports {
            assert!(floor_of[import.as_str()] <= *floor, "{module} imports {import}, which is on a higher floor");
        }
        if *floor <= floor_of[GROUND] {
            assert!(!code.contains("quinn") && !code.contains("actix"), "{module} is on the ground floors");
        }
        graph.insert(*module, imports.into_iter().filter(|import| import != module).collect::<BTreeSet<_>>());
    }
    assert_eq!(graph.len(), fs::read_dir(&src).unwrap().filter(|entry| is_module(entry.as_ref().unwrap())).count());
    // Whoever imports nothing that is left goes, until nobody is left but those who import each other.
    loop {
        let before = graph.len();
        let left: BTreeSet<String> = graph.keys().map(|module| (*module).to_owned()).collect();
        graph.retain(|_, imports| imports.iter().any(|import| left.contains(import)));
        if graph.len() == before {
            break;
        }
    }
    assert!(graph.is_empty(), "modules that import each other: {graph:?}");
}

fn is_module(entry: &fs::DirEntry) -> bool {
    let path = entry.path();
    path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("lib.rs")
}

#[test]
fn a_circle_and_an_import_that_hides_are_seen() {
    let known = BTreeSet::from(["a", "b", "c", "message"]);
    let seen = |code: &str| imports(code, &known).into_iter().collect::<Vec<_>>();
    assert_eq!(seen("use crate::a::X;\nuse crate::{b, c::D};\nf(crate::message::g)"), ["a", "b", "c", "message"]);
    assert_eq!(seen("crate::messages!(1 A => ());\n$crate::x!()"), ["message"]);
    assert!(std::panic::catch_unwind(|| seen("use crate::Node;")).is_err());
}
