//! One `Config`: defaults, then environment, then builder calls. Every `DAFT_*` and `REGATTA_*` variable is read here
//! and nowhere else.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::ConfigError;

/// Where queries run, as `DAFT_RUNNER` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// `native`: embedded in this process.
    Native,
    /// `flotilla`: worker processes.
    Flotilla,
}

/// Settings of a session.
///
/// | variable | default | meaning |
/// |---|---|---|
/// | `DAFT_RUNNER` | `native` | `native`: in this process; `flotilla`: local worker processes |
/// | `DAFT_ACTOR_UDF_READY_TIMEOUT` | 120 | seconds for UDF replicas to become ready |
/// | `DAFT_MIN_CPU_PER_TASK` | 0.5 | CPU that one task is charged |
/// | `REGATTA_SCRATCH` | the system's folder for temporary files | where clusters keep their scratch folders |
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where [`Session::from_env`](crate::Session::from_env) runs queries.
    pub runner: Runner,
    /// How long UDF replicas may take to become ready.
    pub actor_udf_ready_timeout: Duration,
    /// CPU that one task is charged.
    pub min_cpu_per_task: f64,
    /// Where clusters keep their scratch folders.
    pub scratch: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runner: Runner::Native,
            actor_udf_ready_timeout: Duration::from_secs(120),
            min_cpu_per_task: 0.5,
            scratch: std::env::temp_dir(),
        }
    }
}

impl Config {
    /// The defaults, changed by what the environment says.
    ///
    /// # Errors
    /// A variable whose value is not valid: named, with what is accepted.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(value) = get("DAFT_RUNNER") {
            config.runner = match value.to_ascii_lowercase().as_str() {
                "native" => Runner::Native,
                "flotilla" => Runner::Flotilla,
                _ => return Err(invalid("DAFT_RUNNER", value, "use native or flotilla")),
            };
        }
        if let Some(value) = get("DAFT_ACTOR_UDF_READY_TIMEOUT") {
            let accepted = "use seconds, a number > 0";
            let seconds = number("DAFT_ACTOR_UDF_READY_TIMEOUT", value.clone(), accepted)?;
            config.actor_udf_ready_timeout = Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|timeout| !timeout.is_zero())
                .ok_or_else(|| invalid("DAFT_ACTOR_UDF_READY_TIMEOUT", value, accepted))?;
        }
        if let Some(value) = get("DAFT_MIN_CPU_PER_TASK") {
            config.min_cpu_per_task = number("DAFT_MIN_CPU_PER_TASK", value, "use a number of CPUs, > 0")?;
        }
        if let Some(value) = get("REGATTA_SCRATCH") {
            config.scratch = PathBuf::from(value);
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks what builder calls may have set.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let cpu = self.min_cpu_per_task;
        if !(cpu.is_finite() && cpu > 0.0) {
            return Err(invalid("DAFT_MIN_CPU_PER_TASK", cpu.to_string(), "use a number of CPUs, > 0"));
        }
        if self.actor_udf_ready_timeout.is_zero() {
            return Err(invalid("DAFT_ACTOR_UDF_READY_TIMEOUT", "0".to_owned(), "use seconds, a number > 0"));
        }
        Ok(())
    }
}

fn number(variable: &str, value: String, accepted: &str) -> Result<f64, ConfigError> {
    value.trim().parse().map_err(|_| invalid(variable, value, accepted))
}

fn invalid(variable: &str, value: String, accepted: &str) -> ConfigError {
    ConfigError { variable: variable.to_owned(), value, accepted: accepted.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Config, ConfigError> {
        Config::from_variables(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn variables_change_the_defaults() {
        assert_eq!(Config::from_variables(|_| None).unwrap(), Config::default());
        assert_eq!(with("DAFT_RUNNER", "Flotilla").unwrap().runner, Runner::Flotilla);
        assert_eq!(
            with("DAFT_ACTOR_UDF_READY_TIMEOUT", "1.5").unwrap().actor_udf_ready_timeout,
            Duration::from_millis(1500)
        );
        assert_eq!(with("DAFT_MIN_CPU_PER_TASK", "2").unwrap().min_cpu_per_task, 2.0);
        assert_eq!(with("REGATTA_SCRATCH", "/x").unwrap().scratch, PathBuf::from("/x"));
    }

    #[test]
    fn a_bad_value_is_refused_with_variable_value_and_what_is_accepted() {
        for (name, value) in [
            ("DAFT_RUNNER", "ray-ish"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "soon"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "-1"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "0"),
            ("DAFT_ACTOR_UDF_READY_TIMEOUT", "inf"),
            ("DAFT_MIN_CPU_PER_TASK", "NaN"),
            ("DAFT_MIN_CPU_PER_TASK", "0"),
        ] {
            let text = with(name, value).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("use "), "{text}");
        }
    }
}
