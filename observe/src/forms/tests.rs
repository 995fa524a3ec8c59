use std::path::{Path, PathBuf};

use crate::{Explain, Node, Profile, QueryState, Reads, StagePlan, UdfPlan, testing};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// Compares with a file. `REGATTA_TEST_GOLDEN=write` writes it: look at what has changed.
fn is_golden(name: &str, text: &str) {
    let path = golden(name);
    if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "{} differs from:\n{text}", path.display());
}

fn profiles() -> [(&'static str, Profile); 6] {
    [
        ("pipeline", testing::pipeline()),
        ("failed", testing::failed()),
        ("lost_worker", testing::lost_worker()),
        ("enough", testing::enough()),
        ("native", testing::native()),
        ("running", testing::running().1),
    ]
}

#[test]
fn every_form_of_every_case_is_the_golden_one() {
    for (name, profile) in profiles() {
        is_golden(&format!("{name}.txt"), &profile.to_string());
        is_golden(&format!("{name}.mmd"), &profile.to_mermaid());
        is_golden(&format!("{name}.dot"), &profile.to_dot());
        is_golden(&format!("{name}.svg"), &profile.to_svg());
        assert!(Profile::from_json(&profile.to_json()).unwrap() == profile, "{name}");
    }
    let (_, profile) = &profiles()[0];
    is_golden("pipeline_full.txt", &format!("{profile:#}"));
    is_golden("pipeline.json", &profile.to_json());
    is_golden("pipeline.html", &profile.to_html());
    is_golden("plan.txt", &profile.plan.to_string());
    is_golden("plan.json", &profile.plan.to_json());
    is_golden("plan.mmd", &profile.plan.to_mermaid());
    is_golden("plan.dot", &profile.plan.to_dot());
    is_golden("plan.svg", &profile.plan.to_svg());
}

/// A file of each version must still load. It is never written anew: fields that were added since have their defaults.
#[test]
fn a_profile_of_each_version_still_loads() {
    let text = std::fs::read_to_string(golden("version1.json")).unwrap();
    let profile = Profile::from_json(&text).unwrap();
    assert_eq!((profile.regatta_profile, profile.query.state, profile.query.rows), (1, QueryState::Done, 10));
    assert_eq!((profile.stages.len(), profile.pools[0].calls.call.count(), profile.edges.len()), (4, 733, 3));
    assert_eq!(profile.to_string(), std::fs::read_to_string(golden("version1.txt")).unwrap());
}

#[test]
fn what_is_no_profile_says_what_it_is() {
    let error = |text: &str| Profile::from_json(text).unwrap_err().to_string();
    assert!(error("[1]").starts_with("this is not a profile of a query"), "{}", error("[1]"));
    assert!(error(r#"{"regatta_profile":2}"#).contains("has version 2, and this build knows them up to 1"));
    assert!(error(r#"{"regatta_profile":1,"stages":3}"#).starts_with("this is not a profile of a query"));
}

/// One below the other, each with a UDF, and a frame that all of them read.
#[test]
fn a_query_of_two_thousand_stages_has_every_form() {
    const STAGES: u32 = 2_000;
    let read = |stage: u32| Reads { stage, what: "all".to_owned(), one_attempt: false };
    let stages = (0..STAGES).map(|stage| StagePlan {
        stage,
        tasks: Some(1),
        reads: stage.checked_sub(1).into_iter().chain((stage > 1).then_some(0)).map(read).collect(),
        ..StagePlan::default()
    });
    let udf = |step| UdfPlan { step, udf: "demo::Embed".to_owned(), ..UdfPlan::default() };
    let nodes = (0..STAGES).map(|stage| Node { id: stage, stage, udf: Some(udf(0)), ..Node::default() });
    let mut made = testing::Made::new(2, crate::Limits::default());
    made.submit(None, &Explain::new(stages.collect(), nodes.collect()));
    for stage in 0..STAGES {
        made.now += 1_000_000;
        made.run(stage, 0, stage % 2, 1, 10);
        made.stage_done(stage);
    }
    let progress = made.recorder.progress(made.query, made.now).unwrap();
    assert_eq!(progress.stages.len(), STAGES as usize);
    let drawn = crate::Shown::default().draw(&[progress], crate::Room { width: 80, height: 24, unicode: true });
    assert!(drawn.len() <= 12, "{drawn:?}");
    let profile = made.profile();
    let text = format!("{profile:#}");
    assert!(text.contains("stage 0  1 task") && text.matches("stage 0, as above").count() == STAGES as usize - 2);
    assert!(profile.to_svg().contains("</svg>") && profile.to_html().contains("</html>"));
    assert!(profile.to_mermaid().contains("s1998 ") && profile.to_dot().contains("s0 -> s1999"));
    assert!(profile.plan.to_string().contains("stage 1999"));
    assert!(Profile::from_json(&profile.to_json()).unwrap() == profile);
}

/// Names of UDFs, files and errors are of people, and nothing in them is a mark.
#[test]
fn hostile_names_stay_text_in_every_form() {
    let mut profile = testing::failed();
    let hostile = "</script><img src=x onerror=alert(1)>\"];\x1b[2J\\\"-->\u{9b}2J\u{202e}\u{2028}]]>%%{init}\nclick s0 href \"javascript:\"";
    profile.query.name = Some(hostile.to_owned());
    profile.query.error = Some(hostile.to_owned());
    profile.errors[0].text = hostile.to_owned();
    profile.pools[0].udf = hostile.to_owned();
    profile.incomplete.push(hostile.to_owned());
    profile.findings[0].says = hostile.to_owned();
    profile.workers[0].lost = Some(hostile.to_owned());
    for node in &mut profile.plan.nodes {
        node.label = hostile.to_owned();
        node.details = vec![hostile.to_owned()];
        node.udf.iter_mut().for_each(|udf| udf.udf = hostile.to_owned());
    }
    for stage in &mut profile.plan.stages {
        stage.why = hostile.to_owned();
        stage.reads.iter_mut().for_each(|read| read.what = hostile.to_owned());
    }
    let html = profile.to_html();
    assert_eq!(html.matches("<script").count(), 1, "the only script is the data");
    assert!(!html.contains("<img") && html.matches("</script>").count() == 1);
    assert!(!profile.to_svg().contains("<img"));
    let json = html.split("id=\"profile\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
    assert!(Profile::from_json(json).unwrap() == profile, "{json}");
    let mermaid = profile.to_mermaid();
    assert!(mermaid.lines().all(|line| line.matches('"').count() % 2 == 0), "{mermaid}");
    assert!(!mermaid.contains("<img") && !mermaid.contains("-->\""));
    for text in [profile.to_string(), format!("{profile:#}"), mermaid, profile.to_dot(), profile.to_svg(), html] {
        assert!(!text.contains(['\x1b', '\u{9b}', '\u{202e}', '\u{2028}']), "{text}");
    }
    assert!(!profile.to_string().contains("\nclick") && !profile.to_mermaid().contains("\nclick"));
    assert!(!profile.plan.to_string().contains(['\x1b', '\u{9b}', '\u{202e}', '\u{2028}']));
    assert!(!profile.plan.to_string().contains("\nclick"));
    let quotes = |line: &str| line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
    assert!(profile.to_dot().lines().all(|line| quotes(line) % 2 == 0), "{}", profile.to_dot());
}

#[test]
fn a_page_loads_nothing_and_runs_nothing() {
    let html = testing::pipeline().to_html();
    for mark in ["http://", "https://", "src=", "@import", "url(http", "<link", "onclick"] {
        let without_names = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_names.contains(mark), "{mark}");
    }
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn a_plan_without_stages_has_every_form() {
    let plan = Explain::default();
    assert_eq!(plan.to_string(), "");
    assert!(plan.to_svg().contains("</svg>") && plan.to_dot().starts_with("digraph"));
    assert_eq!(plan.to_mermaid().lines().next(), Some("flowchart BT"));
    assert!(Profile::default().to_html().contains("</html>"));
}
