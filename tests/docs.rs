//! What the code can say is said in the docs.

use elava::inventory::FindingKind;
use elava::policy::lifecycle::Resolution;

#[test]
fn every_kind_of_finding_has_its_section_and_every_resolution_its_line() {
    let read = |page: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
        std::fs::read_to_string(path).expect("the page is there")
    };
    let (findings, finding) = (read("findings.md"), read("resourcefinding.md"));
    for kind in FindingKind::ALL {
        assert!(findings.contains(&format!("\n## {kind}\n")), "docs/findings.md has no section {kind}");
    }
    for resolution in Resolution::ALL {
        let line = format!("| `{}` |", resolution.as_str());
        assert!(finding.contains(&line), "docs/resourcefinding.md has no line {line}");
    }
}
