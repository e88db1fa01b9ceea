//! Every name that the code can report is in the docs.

use elava::api::{condition, reason};
use elava::inventory::FindingKind;
use elava::policy::lifecycle::Resolution;

fn read(page: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    std::fs::read_to_string(path).expect("the page is there")
}

/// The quoted names in a source, in the places where reasons are given.
fn words(source: &str, before: &str) -> Vec<String> {
    let word = regex::Regex::new(&format!(r#"{before}\s*"([A-Z][A-Za-z]+)""#)).expect("it is a pattern");
    let words: Vec<String> = word.captures_iter(&read(source)).map(|found| found[1].to_owned()).collect();
    assert!(!words.is_empty(), "{source} has no {before}: the names are elsewhere now");
    words
}

#[test]
fn every_reason_for_which_something_is_wrong_has_its_runbook() {
    let runbooks = read("docs/runbooks.md");
    let mut reasons = words("src/inventory/sweep.rs", r"Reason::[A-Za-z]+ =>");
    reasons.extend(reason::PROBLEMS.iter().map(|reason| (*reason).to_owned()));
    reasons.extend(words("src/controller/mod.rs", r"ReconcileError::[A-Za-z]+(?:\(_\))? =>"));
    reasons.extend(words("src/cli/status.rs", r"problem\("));
    // Reasons of an operator that does not start or can't record; the other errors of the store are answers to queries.
    let answers = ["NotKept", "Compacted", "ReaderExpired", "StoreExists", "StreamFailed", "NotABackup"];
    let of_the_store = words("src/store/error.rs", r"=>");
    reasons.extend(of_the_store.into_iter().filter(|reason| !answers.contains(&reason.as_str())));
    for reason in reasons.iter().filter(|reason| !reason::HEALTHY.contains(&reason.as_str())) {
        assert!(runbooks.contains(&format!("\n### {reason}\n")), "docs/runbooks.md has no section {reason}");
    }
}

#[test]
fn every_condition_is_documented() {
    let (cloudscan, exemption) = (read("docs/cloudscan.md"), read("docs/findingexemption.md"));
    for condition in condition::OF_CLOUDSCAN {
        assert!(cloudscan.contains(&format!("| `{condition}` |")), "docs/cloudscan.md has no line {condition}");
    }
    for condition in condition::OF_EXEMPTION {
        assert!(
            exemption.contains(&format!("`{condition}`")),
            "docs/findingexemption.md does not have {condition}"
        );
    }
}

#[test]
fn every_field_of_the_log_is_documented() {
    let page = read("docs/metrics.md");
    let logs = page.split_once("\n## Logs\n").map(|(_, rest)| rest).expect("it has a section");
    let logs = logs.split("\n## ").next().expect("it has an end");
    let line = regex::Regex::new(r#"tracing::(?:info|warn|error)!\(([^"]*)""#).expect("it is a pattern");
    let field = regex::Regex::new(r"^[%?]?([a-z_]+)\s*(?:=|$)").expect("it is a pattern");
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut fields = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("sources are text");
            for reported in line.captures_iter(&source) {
                fields.extend(
                    reported[1].split(',').filter_map(|one| Some(field.captures(one.trim())?[1].to_owned())),
                );
            }
        }
    }
    assert!(fields.len() > 15, "the sources are read: {fields:?}");
    for field in fields {
        assert!(logs.contains(&format!("`{field}`")), "docs/metrics.md has no field {field} of the log");
    }
}

#[test]
fn every_kind_of_finding_has_its_section_and_every_resolution_its_line() {
    let (findings, finding) = (read("docs/findings.md"), read("docs/resourcefinding.md"));
    for kind in FindingKind::ALL {
        assert!(findings.contains(&format!("\n## {kind}\n")), "docs/findings.md has no section {kind}");
    }
    for resolution in Resolution::ALL {
        let line = format!("| `{}` |", resolution.as_str());
        assert!(finding.contains(&line), "docs/resourcefinding.md has no line {line}");
    }
}

/// The anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Each row of docs/security.md that states what prevents an attack, or what is not allowed, names its test; and that
/// test exists.
#[test]
fn every_claim_of_the_threat_model_names_its_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = read("docs/security.md");
    let named =
        regex::Regex::new(r"`((?:src|tests|e2e)/[a-z0-9_/]+\.rs)::([a-z0-9_]+)`").expect("it is a pattern");
    for found in named.captures_iter(&page) {
        let source = std::fs::read_to_string(root.join(&found[1])).unwrap_or_default();
        let test = regex::Regex::new(&format!(r"#\[(?:tokio::)?test[^\]]*\]\s+(?:async )?fn {}\(", &found[2]));
        // Tests inside a macro such as proptest have the attribute, too.
        let is_there = test.expect("it is a pattern").is_match(&source);
        assert!(is_there, "docs/security.md names {}::{}, and there is no such test", &found[1], &found[2]);
    }
    let mut rows = 0;
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let is_head = line.starts_with('|') && lines.peek().is_some_and(|next| next.starts_with("|---"));
        if !is_head {
            continue;
        }
        assert!(line.ends_with("| test |"), "a table without a column of tests: {line}");
        lines.next();
        while let Some(row) = lines.next_if(|next| next.starts_with('|')) {
            rows += 1;
            let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            assert!(named.is_match(last) || last.contains("`fuzz/run.sh`"), "a claim without its test: {row}");
        }
    }
    assert!(rows > 20, "the tables are read: {rows}");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<String> = ["README", "CHANGELOG", "CONTRIBUTING", "SECURITY", "charts/elava/README"]
        .iter()
        .map(|page| format!("{page}.md"))
        .collect();
    for folder in ["docs", "docs/adr", "docs/reference"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("the folder is there") {
            let name = entry.expect("it can be read").file_name().into_string().expect("names are ASCII");
            if std::path::Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    let code = regex::Regex::new(r"(?s)```.*?```").expect("it is a pattern");
    let link = regex::Regex::new(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)").expect("it is a pattern");
    let mut links = 0;
    for page in &pages {
        let text = read(page);
        let prose = code.replace_all(&text, "");
        for found in link.captures_iter(&prose).filter(|found| !found[1].starts_with("http")) {
            links += 1;
            let here = root.join(page);
            let target = if found[1].is_empty() { here } else { here.with_file_name("").join(&found[1]) };
            assert!(target.exists(), "{page} links to {}, which is not there", &found[1]);
            if let Some(expected) = found.get(2).filter(|_| target.extension().is_some_and(|e| e == "md")) {
                let text = std::fs::read_to_string(&target).expect("it is there");
                let has = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line) == expected.as_str());
                assert!(has, "{page} links to {}#{}, and there is no such heading", &found[1], expected.as_str());
            }
        }
    }
    assert!(links > 50, "the pages are read: {links}");
}
