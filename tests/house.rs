//! The direction of dependencies that design.md gives: who may name whom.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each module with those of ours that it may use.
const MAY_USE: [(&str, &[&str]); 9] = [
    ("inventory", &[]),
    ("store", &["inventory"]),
    ("cloud", &["inventory"]),
    ("policy", &["inventory"]),
    ("api", &["inventory"]),
    ("scanner", &["inventory", "store", "cloud"]),
    ("server", &["inventory", "store", "policy", "api"]),
    ("controller", &["inventory", "store", "cloud", "policy", "api", "scanner"]),
    ("cli", &["inventory", "store", "cloud", "policy", "api", "scanner", "server", "controller"]),
];
const NO_PLACE: [&str; 3] = ["util", "common", "helpers"];

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source file")));
        }
    }
}

#[test]
fn modules_depend_only_on_those_they_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<String> = fs::read_dir(&src)
        .expect("src")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.is_dir())
        .map(|p| p.file_name().expect("it has a name").to_string_lossy().into_owned())
        .collect();
    let planned: BTreeSet<String> = MAY_USE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(modules, planned, "a module that the plan does not know, or the other way round");
    let reference = regex::Regex::new(r"\bcrate::(\w+)").expect("the pattern is a constant");
    let grouped = regex::Regex::new(r"use crate::\{([^;]*)\};").expect("the pattern is a constant");
    let mut looked_at = 0;
    for (module, may_use) in MAY_USE {
        let mut files = Vec::new();
        sources(&src.join(module), &mut files);
        for (path, text) in files {
            assert!(!grouped.is_match(&text), "{path}: name modules one by one, so that this test sees them");
            // What a test module of it uses is no dependency of the house.
            let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for used in reference.captures_iter(shipped).map(|c| c[1].to_owned()) {
                looked_at += 1;
                assert!(used == module || may_use.contains(&used.as_str()), "{path} uses crate::{used}");
            }
            let name = Path::new(&path).file_stem().expect("it has a name").to_string_lossy().into_owned();
            assert!(!NO_PLACE.contains(&name.as_str()), "{path}: name it after what it holds");
        }
    }
    assert!(looked_at > 50, "the pattern finds what is there");
}
