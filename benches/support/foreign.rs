//! Peers that are programs of others: see `benches/peers/setup.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a peer has measured, by name.
pub(crate) type Figures = Vec<(String, f64)>;

/// Runs a script of `benches/peers` in the Python where the peers are: lines of `name value`.
pub(crate) fn python(name: &str, args: &[&str]) -> Result<Figures, String> {
    let script = script(name)?;
    let script = script.to_str().ok_or("its path is not text")?;
    foreign(PYTHON, &[&[script], args].concat())
}

/// The Python where the peers are, as [`made`] finds it.
pub(crate) const PYTHON: &str = "ray/bin/python";

/// A script of `benches/peers`.
pub(crate) fn script(name: &str) -> Result<PathBuf, String> {
    let mut folders =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("benches/peers").join(name));
    folders.find(|script| script.exists()).ok_or_else(|| "no such script".to_owned())
}

/// Runs a program that the peers' script has made: lines of `name value`.
pub(crate) fn foreign(program: &str, args: &[&str]) -> Result<Figures, String> {
    let path = made(program)?;
    let done = Command::new("timeout").arg("100").arg(&path).args(args).output();
    let done = done.map_err(|error| error.to_string())?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{}: {}", done.status, text.trim().lines().last().unwrap_or_default()));
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let figure = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter_map(figure).collect())
}

/// What the peers' script has made.
pub(crate) fn made(program: &str) -> Result<PathBuf, String> {
    let home = std::env::var_os("REGATTA_PEERS").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/regatta/peers")));
    let path = home.unwrap_or_default().join(program);
    if !path.exists() {
        return Err("not there; benches/peers/setup.sh makes it".to_owned());
    }
    Ok(path)
}

/// One of a peer's figures.
pub(crate) fn figure(figures: &Result<Figures, String>, name: &str) -> Result<f64, String> {
    let figures = figures.as_ref().map_err(Clone::clone)?;
    let found = figures.iter().find(|(known, _)| known == name);
    found.map(|(_, figure)| *figure).ok_or_else(|| "it does not have this".to_owned())
}
