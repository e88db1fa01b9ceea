//! The release workflow, as far as it can be tested without a registry and Sigstore: image/release.sh signs with a
//! throw-away key if cosign is installed (docs/contributing.md).

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(ROOT).join(path)).expect("the file is there")
}

#[test]
fn the_release_workflow_checks_first_and_has_no_more_rights_than_it_uses() {
    let workflow: Value = serde_yaml::from_str(&read(".github/workflows/release.yaml")).expect("it is YAML");
    assert_eq!(workflow["permissions"], serde_json::json!({}), "each job names its own");
    let jobs = workflow["jobs"].as_object().expect("it has jobs");
    let rights = |job: &str| jobs[job]["permissions"].clone();
    assert_eq!(rights("check"), serde_json::json!({"contents": "read"}));
    let of_release = serde_json::json!({"contents": "read", "packages": "write", "id-token": "write"});
    assert_eq!(rights("release"), of_release);
    assert_eq!(jobs["release"]["needs"], "check", "nothing is released that was not tested");
    for (name, job) in jobs {
        for step in job["steps"].as_array().expect("it has steps") {
            // A replaced action could sign anything: only GitHub's own actions are used.
            if let Some(action) = step["uses"].as_str() {
                assert!(action.starts_with("actions/"), "{name} uses {action}");
                let commit = action.split_once('@').map_or("", |(_, commit)| commit);
                let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
                assert!(is_commit, "{name} uses {action}: a tag can be moved, a commit can't");
            }
            // The names of tags and branches, which are user input, must not be part of a script.
            let script = step["run"].as_str().unwrap_or_default();
            assert!(!script.contains("${{"), "{name}: an expression in a script: {script}");
        }
    }
}

#[test]
fn the_release_script_has_what_the_workflow_needs() {
    let script = read("image/release.sh");
    let syntax = std::process::Command::new("bash").arg("-n").arg(format!("{ROOT}/image/release.sh")).status();
    assert!(syntax.expect("bash is there").success());
    let workflow = read(".github/workflows/release.yaml");
    let requested = regex::Regex::new(r"image/release\.sh ([a-z]+)").expect("it is a pattern");
    let requested: Vec<&str> =
        requested.captures_iter(&workflow).filter_map(|found| found.get(1)).map(|m| m.as_str()).collect();
    assert!(requested.contains(&"publish") && requested.contains(&"tools"), "{requested:?}");
    for command in requested {
        assert!(script.contains(&format!("\n  {command})")), "image/release.sh has no {command}");
    }
}
