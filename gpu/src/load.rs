//! Where CUDA's libraries are, and loading them by their absolute path. The driver is not among them: it belongs to the
//! system, and the loader finds it.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

/// A library of CUDA that cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LibraryMissing {
    /// What it is called, as in `libnvrtc.so`.
    pub library: String,
    /// Where it was looked for, beside the system's loader path.
    pub looked: Vec<PathBuf>,
    /// The files that were found and could not be loaded, and why.
    pub failed: Vec<(PathBuf, String)>,
    /// What to install.
    pub remedy: &'static str,
}

impl fmt::Display for LibraryMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be loaded", self.library)?;
        for (file, why) in &self.failed {
            write!(f, "; {}: {why}", file.display())?;
        }
        let looked: Vec<_> = self.looked.iter().map(|dir| dir.display().to_string()).collect();
        write!(f, "; looked in {} and on the system's loader path; {}", looked.join(", "), self.remedy)
    }
}

/// A library that stays loaded as long as the process.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) file: PathBuf,
    pub(crate) library: Library,
}

/// The folders in which CUDA's libraries are looked for, in this order, before the system's loader path:
///
/// 1. those in `REGATTA_CUDA_LIBS`, separated by colons,
/// 2. toolkits: `CUDA_HOME`, `CUDA_PATH`, then `/usr/local/cuda*`,
/// 3. NVIDIA's packages from PyPI: in the active virtual environment, in `~/.local`, `/usr/local` and `/usr`,
/// 4. `~/.cache/regatta/cuda`, into which `gpu/install-cuda-libraries` puts such packages.
///
/// A folder may hold the libraries, or be a toolkit or a folder of Python packages that does. Folders that everybody may
/// write to are left out: what is loaded from them is code.
pub fn search_dirs() -> Vec<PathBuf> {
    if let Some(fakes) = FAKES.get() {
        return vec![fakes.clone()];
    }
    static DIRS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    DIRS.get_or_init(|| {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let mut roots: Vec<PathBuf> =
            var("REGATTA_CUDA_LIBS").map(|dirs| std::env::split_paths(&dirs).collect()).unwrap_or_default();
        roots.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(var).map(PathBuf::from));
        roots.extend(children(Path::new("/usr/local"), |name| name.starts_with("cuda")));
        let home = var("HOME").map(PathBuf::from);
        let prefixes = [var("VIRTUAL_ENV"), var("CONDA_PREFIX")].into_iter().flatten().map(PathBuf::from);
        let prefixes = prefixes.chain(home.as_ref().map(|home| home.join(".local")));
        for prefix in prefixes.chain([PathBuf::from("/usr/local"), PathBuf::from("/usr")]) {
            for python in children(&prefix.join("lib"), |name| name.starts_with("python3")) {
                roots.extend(["site-packages", "dist-packages"].map(|packages| python.join(packages)));
            }
        }
        let cache = var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| home.map(|home| home.join(".cache")));
        roots.extend(cache.map(|cache| cache.join("regatta/cuda")));
        let mut dirs: Vec<PathBuf> = roots.iter().flat_map(|root| lib_dirs(root)).collect();
        let mut seen = std::collections::HashSet::new();
        dirs.retain(|dir| dir.is_dir() && not_for_everybody_to_write(dir) && seen.insert(dir.canonicalize().ok()));
        dirs
    })
    .clone()
}

/// The folder of the libraries that tests use instead of CUDA's, once they do.
static FAKES: OnceLock<PathBuf> = OnceLock::new();

/// Whether this process uses the fake driver of the tests.
pub(crate) fn fakes_are_used() -> bool {
    FAKES.get().is_some()
}

/// For tests: takes the driver (`libcuda.so`) and the other libraries from this folder and nowhere else. Before anything
/// else here is called.
///
/// # Panics
/// There is no driver in that folder, or this was called for another one.
#[doc(hidden)]
pub fn use_fakes(folder: &Path) {
    assert_eq!(FAKES.get_or_init(|| folder.to_owned()), folder, "one folder of fakes per process");
    let driver = folder.join("libcuda.so");
    // SAFETY: the fake driver's initialisers have no conditions. cudarc finds it by its name once it is loaded.
    match unsafe { Library::open(Some(&driver), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => std::mem::forget(library),
        Err(error) => panic!("{}: {error}", driver.display()),
    }
}

/// Loads the newest `lib<stem>.so.<major>` of the first folder that has one, not newer than `newest_major`, after the
/// libraries beside it that `before` names; else what the system's loader finds.
pub(crate) fn load(
    stem: &str,
    before: impl Fn(u32) -> Vec<String>,
    newest_major: u32,
    remedy: &'static str,
) -> Result<Loaded, LibraryMissing> {
    let dirs = search_dirs();
    let mut failed = Vec::new();
    let prefix = format!("lib{stem}.so.");
    for dir in &dirs {
        let mut files: Vec<(u32, PathBuf)> = children(dir, |name| name.starts_with(&prefix))
            .into_iter()
            .filter_map(|file| Some((file.file_name()?.to_str()?.strip_prefix(&prefix)?.parse().ok()?, file)))
            .filter(|(major, _)| *major <= newest_major)
            .collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        for (major, file) in files {
            for first in before(major).iter().flat_map(|first| children(dir, |name| name.starts_with(first))) {
                // What it is for is said by the library that needs it, if it does.
                if let Ok(library) = open(&first) {
                    std::mem::forget(library);
                }
            }
            match open(&file) {
                Ok(library) => return Ok(Loaded { file, library }),
                Err(why) => failed.push((file, why)),
            }
        }
    }
    let by_name = (11..=newest_major.min(20)).rev().filter(|_| !fakes_are_used());
    for name in by_name.map(|major| format!("{prefix}{major}")) {
        if let Ok(library) = open(&name) {
            return Ok(Loaded { file: name.into(), library });
        }
    }
    Err(LibraryMissing { library: format!("lib{stem}.so"), looked: dirs, failed, remedy })
}

fn open(name: impl AsRef<OsStr> + libloading::AsFilename) -> Result<Library, String> {
    // SAFETY: it runs the initialisers of a library of NVIDIA, which have no conditions.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| error.to_string())
}

/// The folders with libraries that a root may have: itself, a toolkit's, those of NVIDIA's Python packages.
fn lib_dirs(root: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![root.to_owned(), root.join("lib64"), root.join("targets/x86_64-linux/lib")];
    dirs.extend(children(&root.join("nvidia"), |_| true).into_iter().map(|package| package.join("lib")));
    dirs
}

/// What is in a folder under such a name, the last in the alphabet first: newer versions before older ones.
fn children(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

fn not_for_everybody_to_write(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o002 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_where_it_was_looked_for_and_what_to_install() {
        let missing = load("no-such-library", |_| Vec::new(), 13, "install it").unwrap_err();
        let text = missing.to_string();
        assert!(text.starts_with("libno-such-library.so cannot be loaded; looked in "), "{text}");
        assert!(text.ends_with("and on the system's loader path; install it"), "{text}");
    }

    #[test]
    fn python_packages_and_toolkits_are_roots_and_newer_ones_come_first() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["nvidia/cu12/lib", "nvidia/cu13/lib", "lib64"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let found: Vec<_> = lib_dirs(root.path()).into_iter().filter(|dir| dir.is_dir()).collect();
        let expected = ["", "lib64", "nvidia/cu13/lib", "nvidia/cu12/lib"].map(|dir| root.path().join(dir));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_folder_that_everybody_may_write_to_is_left_out() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(not_for_everybody_to_write(dir.path()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!not_for_everybody_to_write(dir.path()));
    }
}
