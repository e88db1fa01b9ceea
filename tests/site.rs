//! The docs as a site: mdBook builds it, every page is in it, and every link in it has a target.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::support::tools;

fn pages_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.push(path);
        }
    }
}

/// The path without `..` and `.`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn the_site_has_every_page_and_no_link_in_it_is_broken() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let site = tempfile::tempdir().unwrap();
    let mdbook = tools().join("mdbook/bin/mdbook");
    let output = Command::new(&mdbook).arg("build").arg(&docs).arg("--dest-dir").arg(site.path()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", mdbook.display()));
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !reported.contains("WARN"), "{reported}");

    let mut pages = Vec::new();
    pages_below(site.path(), &mut pages);
    let texts: BTreeMap<PathBuf, String> =
        pages.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    let link = regex::Regex::new(r##"<a [^>]*href="([^"#:?]*)(?:#([^"]*))?""##).unwrap();
    // Only the main text counts: the navigation on every page links to every page.
    let main = |text: &str| {
        let text = text.split_once("<main>").map_or(text, |(_, rest)| rest);
        text.split_once("</main>").map_or(text, |(main, _)| main).to_owned()
    };
    let mut broken = BTreeSet::new();
    let mut links: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (page, text) in
        texts.iter().filter(|(page, _)| !page.ends_with("print.html") && !page.ends_with("404.html"))
    {
        for found in link.captures_iter(&main(text)) {
            let target = match &found[1] {
                "" => page.clone(),
                path => plain(&page.parent().unwrap().join(path)),
            };
            let target = if target.is_dir() { target.join("index.html") } else { target };
            let named = found.get(2).is_none_or(|anchor| {
                texts.get(&target).is_some_and(|text| text.contains(&format!("id=\"{}\"", anchor.as_str())))
            });
            if !target.exists() || !named {
                broken.insert(format!("{}: {}", page.strip_prefix(site.path()).unwrap().display(), &found[0]));
            }
            links.entry(page.clone()).or_default().insert(target);
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");

    // The links in the text lead from the front page to these pages in two clicks.
    let front = site.path().join("index.html");
    let once = &links[&front];
    let mut near: BTreeSet<&PathBuf> = once.iter().filter_map(|page| links.get(page)).flatten().collect();
    near.extend(once);
    for page in
        ["install", "concepts", "cloudscan", "findings", "runbooks", "metrics", "gitops", "security", "faq"]
    {
        let path = site.path().join(format!("{page}.html"));
        assert!(near.contains(&path), "{page} is not within two clicks of the front page");
    }
    for entry in std::fs::read_dir(&docs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(page) = name.strip_suffix(".md").filter(|page| *page != "SUMMARY") {
            assert!(site.path().join(format!("{page}.html")).exists(), "{name} is not in docs/SUMMARY.md");
        }
    }
}
