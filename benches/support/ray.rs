//! A Ray cluster of this machine, for those who place workers there.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::foreign::{PYTHON, made, script};

/// One node of four CPUs, until this is dropped.
#[derive(Debug)]
pub(crate) struct RayCluster {
    life: Child,
    pub(crate) address: String,
    pub(crate) python: PathBuf,
}

impl RayCluster {
    pub(crate) fn start() -> Result<Self, String> {
        let python = made(PYTHON)?;
        let mut cluster = Command::new(&python);
        cluster.arg(script("ray_cluster.py")?).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut life = cluster.spawn().map_err(|error| error.to_string())?;
        let mut address = String::new();
        let output = life.stdout.take().ok_or("it has no output")?;
        BufReader::new(output).read_line(&mut address).map_err(|error| error.to_string())?;
        let address = address.trim().to_owned();
        if address.is_empty() { Err("Ray does not start".to_owned()) } else { Ok(Self { life, address, python }) }
    }
}

impl Drop for RayCluster {
    fn drop(&mut self) {
        drop(self.life.stdin.take());
        drop(self.life.wait());
    }
}
