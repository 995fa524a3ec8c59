//! Compiled kernels on disk.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::digest;

const MAGIC: &[u8; 8] = b"regcub01";
const DIGEST: usize = 32;
/// How the names of files begin that are being written.
const NEW: &str = ".new-";
/// After so long the writer of such a file is no more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of compiled kernels, of bounded size: what was used longest ago goes first. Files are whole or not there, and
/// what is damaged counts as missing. What is in it is code, so only its owner may enter it.
#[derive(Debug, Clone)]
pub struct CubinCache {
    dir: PathBuf,
    max_bytes: u64,
}

impl CubinCache {
    /// A cache in a folder, which is made if it is not there, and holds at most about this many bytes.
    ///
    /// # Errors
    /// The folder cannot be made, belongs to somebody else, or others may write to it.
    pub fn new(dir: impl Into<PathBuf>, max_bytes: u64) -> io::Result<Self> {
        let dir = dir.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let metadata = fs::metadata(&dir)?;
        let probe = tempfile::NamedTempFile::new_in(&dir)?;
        if metadata.uid() != probe.as_file().metadata()?.uid() || metadata.mode() & 0o022 != 0 {
            let why = format!("{}: others than this user may write here; compiled kernels are code", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Self { dir, max_bytes })
    }

    /// The cache of this user: `$XDG_CACHE_HOME/regatta/cubin`, else `~/.cache/regatta/cubin`; at most 256 MiB.
    ///
    /// # Errors
    /// As [`new`](Self::new); or neither variable is set.
    pub fn of_user() -> io::Result<Self> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
        let cache =
            cache.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "neither XDG_CACHE_HOME nor HOME is set"))?;
        Self::new(cache.join("regatta/cubin"), 256 << 20)
    }

    /// What was put under a key, if it is there and undamaged.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key);
        let file = fs::read(&path).ok()?;
        let rest = file.strip_prefix(MAGIC)?;
        let (stored, image) = rest.split_at_checked(DIGEST)?;
        if digest::digest(&digest::SHA256, image).as_ref() != stored {
            tracing::warn!(file = %path.display(), "a compiled kernel in the cache is damaged; it is compiled again");
            return None;
        }
        // Used just now: it stays longest. If that cannot be noted, it goes earlier.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(image.to_owned())
    }

    /// Keeps an image under a key.
    ///
    /// # Errors
    /// It cannot be written; the cache is as before.
    pub fn put(&self, key: &str, image: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(&self.dir)?;
        file.write_all(MAGIC)?;
        file.write_all(digest::digest(&digest::SHA256, image).as_ref())?;
        file.write_all(image)?;
        file.as_file().sync_all()?;
        file.persist(self.path(key))?;
        self.shrink()
    }

    /// Forgets a key: the image under it does not load.
    pub fn remove(&self, key: &str) {
        // If it is gone already, that is what was wanted.
        let _ = fs::remove_file(self.path(key));
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.cubin"))
    }

    fn shrink(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another process may take it away at any time.
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified()?;
            if is_cubin(&entry.path()) {
                files.push((modified, metadata.len(), entry.path()));
            } else if entry.file_name().to_string_lossy().starts_with(NEW)
                && modified.elapsed().is_ok_and(|age| age > ABANDONED)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        files.sort_unstable();
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if bytes <= self.max_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            bytes -= len;
        }
        Ok(())
    }
}

fn is_cubin(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cubin")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_put_comes_back_and_what_is_damaged_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(dir.path().join("cubin"), 1 << 20).unwrap();
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"image").unwrap();
        assert_eq!(cache.get("a").unwrap(), b"image");

        let whole = fs::read(cache.path("a")).unwrap();
        for cut in 0..whole.len() {
            fs::write(cache.path("a"), &whole[..cut]).unwrap();
            assert_eq!(cache.get("a"), None, "cut to {cut} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(cache.path("a"), &damaged).unwrap();
            assert_eq!(cache.get("a"), None, "damaged at byte {at}");
        }
        cache.put("a", b"again").unwrap();
        assert_eq!(cache.get("a").unwrap(), b"again");
        cache.remove("a");
        assert_eq!(cache.get("a"), None);
    }

    #[test]
    fn what_was_used_longest_ago_goes_when_the_cache_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(dir.path().join("cubin"), 4 * (1000 + 40)).unwrap();
        let now = SystemTime::now();
        for (age, key) in [(40, "a"), (30, "b"), (20, "c"), (10, "d")] {
            cache.put(key, &[0; 1000]).unwrap();
            let file = fs::File::open(cache.path(key)).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        assert!(cache.get("a").is_some());
        cache.put("e", &[0; 1000]).unwrap();
        let kept: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().filter(|key| cache.get(key).is_some()).collect();
        assert_eq!(kept, ["a", "c", "d", "e"]);
    }

    #[test]
    fn what_a_killed_writer_has_left_goes_and_what_one_writes_now_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(dir.path().join("cubin"), 1 << 20).unwrap();
        let left = |name: &str, age: Duration| {
            let file = fs::File::create(cache.dir.join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let names = [".new-left", ".new-now", "somebody-else"];
        left(names[0], ABANDONED + Duration::from_secs(60));
        left(names[1], Duration::from_secs(60));
        left(names[2], 2 * ABANDONED);
        cache.put("a", b"image").unwrap();
        assert_eq!(names.map(|name| cache.dir.join(name).exists()), [false, true, true]);
    }

    #[test]
    fn writers_of_one_key_never_show_a_half() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(dir.path().join("cubin"), 1 << 30).unwrap();
        let image = |writer: u8| vec![writer; 100_000];
        cache.put("a", &image(0)).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let cache = &cache;
                scope.spawn(move || (0..20).for_each(|_| cache.put("a", &image(writer)).unwrap()));
            }
            for _ in 0..200 {
                let seen = cache.get("a").expect("a whole file at any time");
                assert_eq!(seen, image(seen[0]));
            }
        });
        assert_eq!(fs::read_dir(&cache.dir).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = CubinCache::new(dir.path(), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("others than this user may write here"), "{error}");
        let made = CubinCache::new(dir.path().join("made"), 1 << 20).unwrap();
        assert_eq!(fs::metadata(&made.dir).unwrap().mode() & 0o777, 0o700);
    }
}
