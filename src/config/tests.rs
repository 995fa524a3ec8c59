//! What variables mean, and which values are refused.

use std::collections::BTreeSet;

use super::*;

fn with(name: &'static str, value: &'static str) -> Result<Config, ConfigError> {
    Config::from_variables(|asked| (asked == name).then(|| value.to_owned()))
}

#[test]
fn variables_change_the_defaults() {
    assert_eq!(Config::from_variables(|_| None).unwrap(), Config::default());
    assert_eq!(with("DAFT_RUNNER", "Flotilla").unwrap().runner, Runner::Flotilla);
    assert_eq!(with("DAFT_RUNNER", "ray").unwrap().runner, Runner::Ray);
    assert_eq!(
        with("DAFT_ACTOR_UDF_READY_TIMEOUT", "1.5").unwrap().actor_udf_ready_timeout,
        Duration::from_millis(1500)
    );
    assert_eq!(with("REGATTA_POOL_WARM_SECONDS", "0").unwrap().pool_warm, Duration::ZERO);
    assert_eq!(with("DAFT_MIN_CPU_PER_TASK", "2").unwrap().min_cpu_per_task, 2.0);
    assert_eq!(with("DAFT_AUTOSCALING_THRESHOLD", "2.5").unwrap().autoscaling_threshold, 2.5);
    assert!(!with("DAFT_AUTOSCALING_DOWNSCALE_ENABLED", "False").unwrap().autoscaling_downscale_enabled);
    assert!(with("DAFT_AUTOSCALING_DOWNSCALE_ENABLED", "1").unwrap().autoscaling_downscale_enabled);
    assert_eq!(
        with("DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS", "0").unwrap().autoscaling_downscale_idle,
        Duration::ZERO
    );
    assert_eq!(with("DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS", "0").unwrap().autoscaling_min_survivor_workers, 0);
    assert_eq!(
        with("AUTOSCALER_UPDATE_INTERVAL_S", "0.5").unwrap().autoscaler_update_interval,
        Duration::from_millis(500)
    );
    assert_eq!(
        with("DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS", "7").unwrap().autoscaling_pending_release_exclude,
        Duration::from_secs(7)
    );
    assert_eq!(with("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "7").unwrap().max_async_udf_inflight_tasks, 7);
    assert_eq!(with("REGATTA_OBSERVE_MEMORY", "1048576").unwrap().observe_memory, 1 << 20);
    for (value, bar) in [
        ("0", ProgressBar::Off),
        ("1", ProgressBar::Auto),
        ("persist", ProgressBar::Persist),
        ("log", ProgressBar::Log),
    ] {
        assert_eq!(with("DAFT_PROGRESS_BAR", value).unwrap().progress, bar);
    }
    assert_eq!(with("REGATTA_SCRATCH", "/x").unwrap().scratch, [PathBuf::from("/x")]);
    assert_eq!(with("REGATTA_SCRATCH", "/x:/y:").unwrap().scratch, ["/x", "/y"].map(PathBuf::from));
    assert_eq!(with("REGATTA_SCRATCH", "").unwrap().scratch, Config::default().scratch);
    let error = with("REGATTA_SCRATCH", ":").unwrap_err().to_string();
    assert!(error.contains("/mnt/a:/mnt/b"), "{error}");
    assert_eq!(with("REGATTA_JOBS", "4").unwrap().jobs, 4);
    assert_eq!(with("REGATTA_WORKER_TIMEOUT", "1").unwrap().worker_timeout, Duration::from_secs(1));
    assert_eq!(with("REGATTA_HISTORY", "/x").unwrap().history, Some(PathBuf::from("/x")));
    assert_eq!(with("REGATTA_HISTORY", "").unwrap().history, None);
    assert_eq!(with("DAFT_EVENT_LOG_DIR", "/y").unwrap().history, Some(PathBuf::from("/y")));
    assert_eq!(with("DAFT_EVENT_LOG_ENABLED", "0").unwrap().history, None);
    // Nothing else is set here, nor is HOME.
    let homeless = with("DAFT_EVENT_LOG_ENABLED", "1").unwrap_err().to_string();
    assert!(homeless.contains("REGATTA_HISTORY"), "{homeless}");
    let pages = with("REGATTA_DASHBOARD", "localhost:7780").map(|config| config.dashboard);
    match pages {
        Ok(address) => assert_eq!(address, Some(SocketAddr::from(([127, 0, 0, 1], 7780)))),
        Err(error) => {
            assert!(!cfg!(feature = "dashboard") && error.to_string().contains("`regatta dashboard`"), "{error}");
        }
    }
    assert!(with("REGATTA_DASHBOARD", "7780").unwrap_err().to_string().contains("127.0.0.1:7780"));
    assert_eq!(with("REGATTA_DASHBOARD", "").unwrap().dashboard, None);
}

#[test]
fn pods_are_asked_for_from_the_least_to_the_most_by_a_program_that_can() {
    for (value, workers) in [("0..16", 0..=16), (" 2 .. 4 ", 2..=4), ("3", 3..=3)] {
        match with("REGATTA_KUBERNETES", value) {
            Ok(config) => assert_eq!(config.kubernetes, Some(workers)),
            Err(error) => {
                assert!(!cfg!(feature = "kubernetes") && error.to_string().contains("feature `kubernetes`"), "{error}");
            }
        }
    }
    for value in ["4..2", "0..0", "0..", "..3", "many", "-1..2"] {
        let error = with("REGATTA_KUBERNETES", value).unwrap_err().to_string();
        assert!(error.contains("as 0..16"), "{value}: {error}");
    }
    assert_eq!(with("REGATTA_KUBERNETES", "").unwrap().kubernetes, None);
}

#[test]
fn in_a_ray_job_queries_run_on_ray_unless_said_otherwise_and_its_workers_show_no_progress() {
    assert_eq!(with(RAY_JOB, "{}").unwrap().runner, Runner::Ray);
    let native = |name: &str| match name {
        RAY_JOB => Some("{}".to_owned()),
        "DAFT_RUNNER" => Some("native".to_owned()),
        _ => None,
    };
    assert_eq!(Config::from_variables(native).unwrap().runner, Runner::Native);
    // What anybody may have set proves nothing.
    assert_eq!(with("RAY_ADDRESS", "head:6379").unwrap(), Config::default());
    assert_eq!(with("RAY_JOB_ID", "ffffffff").unwrap(), Config::default());
    let worker = with(RAY_WORKER, "123").unwrap();
    assert_eq!((worker.runner, worker.progress), (Runner::Native, ProgressBar::Off));
}

#[test]
fn a_misspelt_variable_is_known_by_the_nearest_and_one_of_others_is_not() {
    for (name, meant) in [
        ("REGATTA_SCRACH", "REGATTA_SCRATCH"),
        ("REGATTA_SCRATCH_DIR", "REGATTA_SCRATCH"),
        ("REGATTA_POOL_WARM", "REGATTA_POOL_WARM_SECONDS"),
        ("regatta_token", "REGATTA_TOKEN"),
        ("DAFT_RUNER", "DAFT_RUNNER"),
        ("DAFT_MIN_CPUS_PER_TASK", "DAFT_MIN_CPU_PER_TASK"),
        ("AUTOSCALER_UPDATE_INTERVAL", "AUTOSCALER_UPDATE_INTERVAL_S"),
    ] {
        assert_eq!(nearest(name), Some(meant), "{name}");
    }
    for name in ["DAFT_RUNNER", "DAFT_PROGRESS_BAR", "DAFT_SHUFFLE_ALGORITHM", "REGATTA_TEST_AS_HEAD", "PATH", "DAFTAR"]
    {
        assert_eq!(nearest(name), None, "{name}");
    }
}

#[test]
fn the_page_on_the_environment_has_each_variable_and_no_other() {
    let page = include_str!("../../docs/book/src/environment.md");
    let ours = |name: &&str| ["REGATTA_", "DAFT_", "AUTOSCALER_"].iter().any(|word| name.starts_with(word));
    let code = page.split('`').skip(1).step_by(2).filter_map(|code| code.split('=').next());
    let named: BTreeSet<&str> = code.filter(ours).filter(|name| !name.ends_with('*')).collect();
    let missing: Vec<_> = KNOWN.iter().filter(|name| !named.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let for_tests = |name: &str| name.starts_with("REGATTA_TEST_") || name == "REGATTA_SEEDS";
    let unknown: Vec<_> = named.iter().filter(|name| !KNOWN.contains(name) && !for_tests(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn an_address_or_a_token_without_effect_is_said_with_the_reason() {
    let said = |set: &'static [(&'static str, &'static str)]| {
        let get = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        Config::from_variables(get).unwrap().without_effect(get)
    };
    let (at, token, flotilla) = (("REGATTA_ADDRESS", "head:1"), ("REGATTA_TOKEN", "04c"), ("DAFT_RUNNER", "flotilla"));
    let text = said(vec![at, token].leak()).unwrap();
    assert!(text.starts_with("REGATTA_ADDRESS and REGATTA_TOKEN have no effect while DAFT_RUNNER is native"), "{text}");
    assert!(said(vec![flotilla, token].leak()).unwrap().contains("without REGATTA_ADDRESS"));
    assert!(said(vec![flotilla, token, ("REGATTA_JOIN", "head:1")].leak()).is_none(), "it is a worker's");
    assert!(said(vec![flotilla, at, token].leak()).is_none());
    assert!(said(&[]).is_none());
}

#[test]
fn a_bad_value_of_what_keeps_us_quiet_is_an_error_too() {
    let with = |value: &'static str| Config::from_variables(|name| (name == "REGATTA_QUIET").then(|| value.to_owned()));
    assert!(with("maybe").unwrap_err().to_string().contains("use 1, true, 0 or false"));
    assert!(["", "1", "true", "0", "False"].into_iter().all(|value| with(value).is_ok()));
    let error = offer(&|name: &str| (name == "REGATTA_MEMORY").then(|| "0".to_owned())).unwrap_err().to_string();
    assert!(error.contains("above 0"), "{error}");
}

#[test]
fn an_address_comes_with_a_token_which_is_not_shown() {
    let both = |name: &str| ["REGATTA_ADDRESS", "REGATTA_TOKEN"].contains(&name).then(|| format!("<{name}>"));
    let at = Config::from_variables(both).unwrap().cluster.unwrap();
    assert_eq!((at.address.as_str(), at.token.as_str()), ("<REGATTA_ADDRESS>", "<REGATTA_TOKEN>"));
    assert!(!format!("{at:?}").contains("TOKEN"), "a token is a secret: {at:?}");
}

#[test]
fn what_a_worker_may_use_is_said_in_numbers_and_units() {
    let with =
        |name: &'static str, value: &'static str| offer(&|asked: &str| (asked == name).then(|| value.to_owned()));
    assert_eq!(offer(&|_| None).unwrap(), Offer::default());
    assert_eq!(with("REGATTA_CPUS", "2.5").unwrap().cpus, Some(2.5));
    assert_eq!(with("REGATTA_PORT", "7701").unwrap().port, 7701);
    let memory = |value| with("REGATTA_MEMORY", value).unwrap().memory.unwrap();
    assert_eq!([memory("1024"), memory("3 KiB"), memory("8GiB")], [1024, 3072, 8 << 30]);
    for (name, value) in [
        ("REGATTA_CPUS", "0"),
        ("REGATTA_CPUS", "all"),
        ("REGATTA_CPUS", "inf"),
        ("REGATTA_PORT", "65536"),
        ("REGATTA_MEMORY", "8GB"),
        ("REGATTA_MEMORY", "0"),
        ("REGATTA_MEMORY", "99999999999TiB"),
    ] {
        let text = with(name, value).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("use a"), "{text}");
    }
}

#[test]
fn a_bad_value_is_refused_with_variable_value_and_what_is_accepted() {
    for (name, value) in [
        ("DAFT_RUNNER", "ray-ish"),
        ("REGATTA_ADDRESS", "host:1"),
        ("REGATTA_WORKER_TIMEOUT", "later"),
        ("DAFT_ACTOR_UDF_READY_TIMEOUT", "soon"),
        ("DAFT_ACTOR_UDF_READY_TIMEOUT", "-1"),
        ("DAFT_ACTOR_UDF_READY_TIMEOUT", "0"),
        ("DAFT_ACTOR_UDF_READY_TIMEOUT", "inf"),
        ("REGATTA_POOL_WARM_SECONDS", "for ever"),
        ("DAFT_SCHEDULER_LINEAR", "yes please"),
        ("DAFT_PROGRESS_BAR", "2"),
        ("REGATTA_OBSERVE_MEMORY", "much"),
        ("REGATTA_JOBS", "many"),
        ("REGATTA_JOBS", "257"),
        ("DAFT_AUTOSCALING_THRESHOLD", "0.9"),
        ("DAFT_AUTOSCALING_DOWNSCALE_ENABLED", "perhaps"),
        ("DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS", "-1"),
        ("DAFT_AUTOSCALING_MIN_SURVIVOR_WORKERS", "-1"),
        ("DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS", "never"),
        ("AUTOSCALER_UPDATE_INTERVAL_S", "often"),
        ("DAFT_MIN_CPU_PER_TASK", "NaN"),
        ("DAFT_MIN_CPU_PER_TASK", "0"),
        ("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "0"),
        ("DAFT_MAX_ASYNC_UDF_INFLIGHT_TASKS", "many"),
    ] {
        let text = with(name, value).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("use ") || text.contains("set "), "{text}");
    }
}
