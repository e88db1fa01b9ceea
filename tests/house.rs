//! Which module may depend on which, and the words that neither the code nor the docs use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each module, with those of our modules that it may use.
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

/// The folders of the store, each with those below it. Files beside them (the store itself, its errors, notes and tenants) use
/// all of them.
const STORE_MAY_USE: [(&str, &[&str]); 5] = [
    ("file", &[]),
    ("state", &["file"]),
    ("write", &["file", "state"]),
    ("read", &["file", "state"]),
    ("upkeep", &["file", "state", "write", "read"]),
];

/// The references of a source file to modules of ours, as paths from the crate's root.
fn references(module: &str, text: &str) -> Vec<String> {
    let reference =
        regex::Regex::new(r"\b(crate|super)((?:::\w+)*)(?:::\{([^;]*?)\};)?").expect("the pattern is a constant");
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = Vec::new();
    for captures in reference.captures_iter(text) {
        let root = if &captures[1] == "crate" { "" } else { parent };
        let path = format!("{root}{}", &captures[2]).trim_start_matches("::").to_owned();
        match captures.get(3) {
            None => found.push(path),
            // Nested groups name modules by their first word only, which is enough.
            Some(group) => found.extend(
                group
                    .as_str()
                    .split(',')
                    .map(|item| format!("{path}::{}", item.trim().split(['{', ' ']).next().unwrap_or_default())),
            ),
        }
    }
    found
}

/// Each module of the crate with its text, without tests and comments.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let comment = regex::Regex::new(r"//[^\n]*").expect("the pattern is a constant");
    let mut modules = BTreeMap::new();
    for (path, text) in files {
        let relative = Path::new(&path).strip_prefix(&root).expect("it lies there").with_extension("");
        let name = relative.display().to_string().replace('/', "::");
        if name.contains("tests") || name.ends_with("faults") {
            continue;
        }
        let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        modules.insert(name.trim_end_matches("::mod").to_owned(), comment.replace_all(shipped, "").into_owned());
    }
    modules
}

/// The module that a path names or lies in.
fn resolve<'a>(modules: &'a BTreeMap<String, String>, path: &str) -> Option<&'a str> {
    let mut path = path;
    loop {
        if let Some((name, _)) = modules.get_key_value(path) {
            return Some(name);
        }
        path = path.rsplit_once("::")?.0;
    }
}

#[test]
fn folders_of_the_store_depend_only_on_those_below() {
    let mut checked = 0;
    for (module, text) in modules() {
        let Some(folder) = module.strip_prefix("store::").and_then(|rest| rest.split_once("::")) else { continue };
        let (_, may_use) =
            STORE_MAY_USE.iter().find(|(name, _)| *name == folder.0).expect("a folder that is known");
        for used in references(&module, &text) {
            let Some(other) = used.strip_prefix("store::").and_then(|rest| rest.split("::").next()) else {
                continue;
            };
            if STORE_MAY_USE.iter().any(|(name, _)| *name == other) && other != folder.0 {
                checked += 1;
                assert!(may_use.contains(&other), "{module} uses {used}");
            }
        }
    }
    assert!(checked > 50, "the pattern finds what is there: {checked}");
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let modules = modules();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, text) in &modules {
        let references = references(module, text);
        let of_module = references.iter().filter_map(|path| resolve(&modules, path)).filter(|other| {
            // A parent and its children are one module in parts.
            !module.starts_with(&format!("{other}::"))
                && !other.starts_with(&format!("{module}::"))
                && other != module
        });
        uses.insert(module, of_module.collect());
    }
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 300, "the pattern finds what is there");
    // What is used by nobody who is left can't be in a circle.
    loop {
        let used: BTreeSet<&str> = uses.values().flatten().copied().collect();
        let before = uses.len();
        uses.retain(|module, others| used.contains(module) && !others.is_empty());
        let left: BTreeSet<&str> = uses.keys().copied().collect();
        for others in uses.values_mut() {
            others.retain(|other| left.contains(other));
        }
        if uses.len() == before {
            break;
        }
    }
    assert!(uses.is_empty(), "these import each other in a circle: {uses:#?}");
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
    let mut checked = 0;
    for (module, may_use) in MAY_USE {
        let mut files = Vec::new();
        sources(&src.join(module), &mut files);
        for (path, text) in files {
            assert!(!grouped.is_match(&text), "{path}: name modules one by one, so that this test sees them");
            // A dependency of a test module does not count.
            if path.ends_with("testing.rs") {
                continue;
            }
            let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for used in reference.captures_iter(shipped).map(|c| c[1].to_owned()) {
                checked += 1;
                assert!(used == module || may_use.contains(&used.as_str()), "{path} uses crate::{used}");
            }
            let name = Path::new(&path).file_stem().expect("it has a name").to_string_lossy().into_owned();
            assert!(!NO_PLACE.contains(&name.as_str()), "{path}: name it after what it holds");
        }
    }
    assert!(checked > 50, "the pattern finds what is there");
}

/// The only places that know AWS: its implementation, its part of the CRD, the commands that are about it, and the
/// wiring.
const KNOW_AWS: [&str; 6] =
    ["cloud::aws", "api::aws", "api::providers", "cli::aws", "cli::clouds", "policy::testing"];
/// Texts that show an example, or a name that was public before there was another provider.
const EXAMPLES: [&str; 13] = [
    "aws::policy::",
    "aws::prices::",
    "FLAWS",
    "aws/111122223333",
    "AWS::EC2::Instance",
    "AWS::EC2::Volume",
    "AWS::S3::Bucket",
    "arn:aws:iam::",
    "mod aws",
    "aws_lc_rs",
    "aws_config=error",
    "spec.provider.aws",
    "[\"aws:\"]",
];

#[test]
fn only_its_own_modules_know_a_provider() {
    let word = regex::Regex::new(r"(?i)aws|\barn\b|_arn\b|arn:|\bec2|cloudformation|amazon")
        .expect("the pattern is a constant");
    let (mut checked, mut found) = (0, Vec::new());
    for (module, text) in modules() {
        let knows = |known: &str| module == known || module.starts_with(&format!("{known}::"));
        if KNOW_AWS.iter().any(|known| knows(known)) {
            continue;
        }
        checked += 1;
        for line in text.lines() {
            let shown = EXAMPLES.iter().fold(line.to_owned(), |line, example| line.replace(example, ""));
            if word.is_match(&shown.replace("flaws", "")) {
                found.push(format!("{module}: {}", line.trim()));
            }
        }
    }
    assert!(checked > 100, "the modules are found: {checked}");
    assert!(found.is_empty(), "these know AWS: {found:#?}");
}

/// Words of the private language that the project began with. docs/concepts.md defines what replaced them.
const RETIRED: [&str; 27] = [
    "ask", "asked", "asking", "asks", "cover", "covered", "covering", "covers", "look", "looked", "looking",
    "looks", "said", "say", "says", "tell", "telling", "tells", "told", "turn", "turns", "viewer", "viewers",
    "want", "wanted", "wants", "wish",
];
/// Names that say how a value came about in place of what it holds.
const NO_TYPE_NAMES: [&str; 5] = ["Found", "Listed", "Seen", "Told", "Wanted"];
/// Some retired words have another, ordinary meaning in a sentence.
const ALLOWED_IN_DOCS: [&str; 8] = ["ask", "asks", "asking", "say", "said", "turn", "turns", "want"];

/// Rust without its comments and without the content of its strings.
fn code_only(text: &str) -> String {
    let no_code = regex::Regex::new(
        r##"(?s)//[^\n]*|/\*.*?\*/|b?r#+".*?"#+|b?r"[^"]*"|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|[^'\\])'"##,
    );
    no_code.expect("the pattern is a constant").replace_all(text, " ").into_owned()
}

/// The words of an identifier in snake or camel case, with upper case words kept apart.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in identifier.chars() {
        if letter == '_' || (letter.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = letter.is_lowercase();
        words
            .last_mut()
            .expect("it begins with one")
            .extend(letter.to_lowercase().filter(|letter| *letter != '_'));
    }
    words
}

#[test]
fn identifiers_use_no_retired_word() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let identifier = regex::Regex::new(r"\b[A-Za-z_][A-Za-z0-9_]*\b").expect("the pattern is a constant");
    let declared = regex::Regex::new(r"\b(?:struct|enum|type|trait) (\w+)").expect("the pattern is a constant");
    let (mut checked, mut retired) = (0, BTreeSet::new());
    for (path, text) in files.iter().filter(|(path, _)| !path.contains("tests")) {
        let shipped = code_only(text.split("#[cfg(test)]\nmod ").next().unwrap_or_default());
        for name in identifier.find_iter(&shipped).map(|found| found.as_str()) {
            checked += 1;
            if words(name).iter().any(|word| RETIRED.contains(&word.as_str())) {
                retired.insert(format!("{path}: {name}"));
            }
        }
        let types = declared.captures_iter(&shipped).map(|found| found[1].to_owned());
        retired.extend(
            types.filter(|name| NO_TYPE_NAMES.contains(&name.as_str())).map(|name| format!("{path}: {name}")),
        );
    }
    // Tests are read as sentences.
    let function = regex::Regex::new(r"\bfn (\w+)").expect("the pattern is a constant");
    for folder in ["src", "tests", "e2e"] {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
        for (path, text) in &files {
            let names = function.captures_iter(text).map(|found| found[1].to_owned());
            let is_retired = |name: &String| words(name).iter().any(|word| RETIRED.contains(&word.as_str()));
            retired.extend(names.filter(is_retired).map(|name| format!("{path}: {name}")));
        }
    }
    assert!(checked > 50_000, "the pattern finds what is there: {checked}");
    assert!(retired.is_empty(), "use the terms of docs/concepts.md: {retired:#?}");
}

#[test]
fn docs_use_no_retired_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    pages.extend(
        fs::read_dir(root.join("docs"))
            .expect("docs")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
    );
    let code = regex::Regex::new(r"(?s)```.*?```|`[^`]*`|\]\([^)]*\)").expect("the pattern is a constant");
    // Of code only the comments of examples.
    let fence = regex::Regex::new(r"(?s)```.*?```").expect("the pattern is a constant");
    let comment = regex::Regex::new(r"(?m)(?:^|\s)# (.*)$").expect("the pattern is a constant");
    let word = regex::Regex::new(r"[A-Za-z]+").expect("the pattern is a constant");
    let mut retired = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page");
        let mut prose = code.replace_all(&text, " ").into_owned();
        for example in fence.find_iter(&text) {
            for found in comment.captures_iter(example.as_str()) {
                prose.push(' ');
                prose.push_str(&found[1]);
            }
        }
        let words = word.find_iter(&prose).map(|found| found.as_str().to_lowercase());
        let is_retired =
            |word: &String| RETIRED.contains(&word.as_str()) && !ALLOWED_IN_DOCS.contains(&word.as_str());
        retired.extend(words.filter(is_retired).map(|word| format!("{}: {word}", page.display())));
    }
    assert!(pages.len() > 20, "the pages are found");
    assert!(retired.is_empty(), "use the terms of docs/concepts.md: {retired:#?}");
}
