//! The pages in a real browser, Chromium: what they say, by whatever others have named things, by keys, and to who cannot see them. Where
//! there is none this says so, and does nothing.

mod chromium;
#[path = "../serving/common.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

use std::collections::BTreeSet;

use chromium::Chromium;
use common::*;
use regatta_dashboard::Dashboard;
use serde_json::json;

/// Each page, and what it says.
const PAGES: [(&str, &[&str]); 10] = [
    (
        "#/",
        &[
            "Overview",
            "Workers",
            "CPUs busy",
            "7.5",
            "▶ running",
            "✗ failed",
            "311 of 512",
            "⚠ silent for 4 s",
            "10.0.0.0:7001",
        ],
    ),
    ("#/workers", &["Workers", "3 workers, 10.5 of 12 CPUs charged, 1 silent", "1.25 of 4", "2 GiB of 8 GiB"]),
    ("#/pools", &["Pools", "Kept warm"]),
    ("#/findings", &["Findings", "⚠ warning pool-bound", "try .replicas(1..=8)"]),
    ("#/logs", &["Logs", "WARN", "weights 61 %", "00000007"]),
    ("#/about", &["About", "the cluster at head:7700", "may cancel queries"]),
    (
        "#/query/00000abc00000007",
        &[
            "query 00000007",
            "Cancel this query",
            "stage 1 · 24 tasks",
            "demo::Embed",
            "95 %",
            "stage 1: 12 batches wait for room",
        ],
    ),
    ("#/query/00000abc00000007/timeline", &["When", "✓ there", "Attempts of this query that ran at once"]),
    ("#/query/00000abc00000007/tasks?stage=0", &["Attempt", "✓ done", "1 to 4 of 4 attempts"]),
    ("#/query/00000abc00000007/errors", &["⚠ warning pool-bound", "Try .replicas(1..=4)", "None."]),
];

/// The page is there, and has what it shows.
fn open(browser: &mut Chromium, page: &str, texts: &[&str]) {
    browser.value(&format!("location.hash = {}", json!(page)));
    for text in texts {
        browser.until(&format!("document.body.innerText.includes({})", json!(text)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_says_what_is_so_in_light_and_in_dark_and_whatever_is_hostile_stays_text() {
    let Some(mut browser) = Chromium::start("pages") else {
        println!("skipped: there is no Chromium on this machine");
        return;
    };
    let serving = Serving::new(Made::new(true), Dashboard::new().with_control()).await;
    tokio::task::spawn_blocking(move || {
        browser.call("Page.navigate", json!({ "url": serving.url }));
        browser.until("document.documentElement.dataset.ready === ''");
        assert!(!browser.text("location.href").contains(&serving.token), "the token is out of the address");
        for scheme in ["light", "dark"] {
            browser.call(
                "Emulation.setEmulatedMedia",
                json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
            );
            for (page, texts) in PAGES {
                open(&mut browser, page, texts);
                let ground = browser.text("getComputedStyle(document.body).backgroundColor");
                assert_eq!(ground, if scheme == "light" { "rgb(255, 255, 255)" } else { "rgb(20, 23, 26)" });
                assert_eq!(browser.value("document.querySelectorAll('main img, main script').length"), 0, "{page}");
                assert_ne!(browser.text("document.title"), "owned", "{page}");
                every_control_has_a_name(&mut browser, page);
            }
        }
        open(&mut browser, "#/", &["<img src=x onerror="]);
        assert!(!browser.text("document.body.innerText").contains('\u{202e}'), "nor does it turn around what follows");
        open(&mut browser, "#/logs", &["<script>document.title='owned'</script>"]);
        open(&mut browser, "#/pools", &["<img src=x onerror="]);
        // On a narrow screen nothing but tables and pictures is wider than that.
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": 320, "height": 800, "deviceScaleFactor": 1, "mobile": false }),
        );
        for (page, texts) in PAGES {
            open(&mut browser, page, texts);
            let width = browser.value("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(width <= 320, "{page} is {width} wide");
        }
        assert_eq!(browser.complaints, Vec::<String>::new());
        browser
    })
    .await
    .unwrap();
}

fn every_control_has_a_name(browser: &mut Chromium, page: &str) {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let mut seen = BTreeSet::new();
    for node in tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true) {
        let (role, name) =
            (node["role"]["value"].as_str().unwrap_or_default(), node["name"]["value"].as_str().unwrap_or_default());
        if ["link", "button", "textbox", "combobox", "checkbox", "table", "navigation", "region"].contains(&role) {
            assert!(!name.trim().is_empty(), "{page}: a {role} has no name");
            seen.insert(role.to_owned());
        }
    }
    assert!(seen.contains("link") && seen.contains("navigation"), "{page}: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_keys_alone_one_comes_to_a_page_and_back_and_strangers_see_nothing() {
    let Some(mut browser) = Chromium::start("keys") else {
        println!("skipped: there is no Chromium on this machine");
        return;
    };
    let serving = Serving::new(Made::new(false), Dashboard::new()).await;
    tokio::task::spawn_blocking(move || {
        let stranger = serving.url.split('#').next().unwrap().to_owned();
        browser.call("Page.navigate", json!({ "url": stranger }));
        browser.until("document.body.innerText.includes('the token is missing or wrong')");
        assert!(!browser.text("document.body.innerText").contains("scan lineitem"));
        // The same tab is given the address with the token.
        browser.value(&format!("location.href = {}", json!(serving.url)));
        browser.until("document.body.innerText.includes('scan lineitem')");
        assert_eq!(
            browser.value("[...document.querySelectorAll('button')].filter((button) => !button.hidden).length"),
            0
        );
        let mut walked = Vec::new();
        for _ in 0..12 {
            browser.press("Tab");
            walked.push(browser.text("document.activeElement.textContent.trim()"));
        }
        let pages = ["To the page", "Overview", "Workers", "Pools", "Findings", "Logs", "About"];
        assert_eq!(walked[..7], pages, "{walked:?}");
        assert!(walked.iter().any(|text| text.starts_with("00000007")), "the query is among them: {walked:?}");
        browser.value("document.querySelector('header a[href=\"#/workers\"]').focus()");
        browser.press("Enter");
        browser.until("document.querySelector('h1').textContent === 'Workers' && document.activeElement.id === 'main'");
        assert_eq!(browser.text("document.querySelector('header a[aria-current]').textContent"), "Workers");
        assert_eq!(browser.text("document.title"), "Workers · Regatta");
        // What is focused stays so while what is shown changes.
        browser.value("location.hash = '#/'");
        browser.until("document.querySelector('td a[href=\"#/logs?worker=1\"]') !== null");
        browser.value("document.querySelector('td a[href=\"#/logs?worker=1\"]').focus()");
        serving.made.view.lock().unwrap().workers[1].tasks = (123, 0);
        browser.until("document.body.innerText.includes('123')");
        assert_eq!(browser.text("document.activeElement.getAttribute('href')"), "#/logs?worker=1");
        browser
    })
    .await
    .unwrap();
}
