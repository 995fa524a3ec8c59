use std::collections::BTreeMap;

use super::*;

fn text(path: &str) -> &'static str {
    let (.., bytes) = FILES.iter().find(|(of, ..)| *of == path).unwrap();
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn all_files_together_are_small() {
    let bytes: usize = FILES.iter().map(|(.., bytes)| bytes.len()).sum();
    assert!(bytes <= 120 << 10, "{bytes}");
}

#[test]
fn nothing_comes_from_elsewhere_and_no_text_becomes_mark_up() {
    for (path, kind, bytes) in FILES {
        let text = std::str::from_utf8(bytes).unwrap();
        // The name of a language, and a mark in the same picture.
        let text = text.replace("http://www.w3.org/2000/svg", "").replace("url(#", "");
        for word in ["http://", "https://", "//cdn", "@import", "url("] {
            assert!(!text.contains(word), "{path}: {word}");
        }
        let marks = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
            "srcdoc",
        ];
        for word in marks.iter().filter(|_| kind.contains("javascript")) {
            assert!(!text.contains(word), "{path}: {word}");
        }
        // The policy forbids both.
        assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains(" onclick="), "{path}");
    }
}

#[test]
fn whatever_a_file_needs_is_there() {
    for path in FILES.iter().map(|(path, ..)| *path) {
        let text = text(path);
        for quote in ["from \"./", "href=\"", "src=\""] {
            for rest in text.split(quote).skip(1) {
                let name = rest.split('"').next().unwrap();
                assert!(name.starts_with('#') || file(&format!("/{name}")).is_some(), "{path}: {name}");
            }
        }
    }
}

/// How bright a colour is, as WCAG counts it.
fn brightness(colour: &str) -> f64 {
    let part = |at: usize| {
        let part = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}

#[test]
fn texts_stand_out_from_what_is_behind_them_in_light_and_in_dark() {
    let colours: BTreeMap<&str, [&str; 2]> = text("/app.css")
        .split("  --")
        .skip(1)
        .filter_map(|line| {
            let (name, rest) = line.split_once(": light-dark(")?;
            let (light, dark) = rest.split_once(')')?.0.split_once(", ")?;
            Some((name, [light, dark]))
        })
        .collect();
    assert!(colours.len() >= 10, "{colours:?}");
    for scheme in [0, 1] {
        for (name, least) in
            [("text", 7.0), ("quiet", 4.5), ("link", 4.5), ("good", 4.5), ("warn", 4.5), ("bad", 4.5), ("mark", 3.0)]
        {
            for behind in ["ground", "panel"] {
                let (one, other) = (brightness(colours[name][scheme]), brightness(colours[behind][scheme]));
                let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                assert!(contrast >= least, "{name} on {behind}, scheme {scheme}: {contrast:.1}");
            }
        }
    }
}
