//! The image is reproducible, contains only what it needs, and has a complete bill of materials.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::node::build_image;

/// Digest and files of an image, and its bill of materials.
fn built(dir: &Path, name: &str) -> (String, BTreeMap<String, Value>, Value) {
    let (image, bill) = (dir.join(format!("{name}.tar")), dir.join(format!("{name}.json")));
    let reported = build_image(&image, &["--sbom", &bill.display().to_string()]);
    let digest = reported.split_whitespace().nth(1).unwrap().to_owned();
    // Read without our own code.
    let listing = r"
import gzip, io, json, sys, tarfile
files = {}
with tarfile.open(sys.argv[1]) as image:
    read = lambda digest: image.extractfile('blobs/' + digest.replace(':', '/')).read()
    manifest = json.loads(read(json.load(image.extractfile('index.json'))['manifests'][0]['digest']))
    files['config'] = json.loads(read(manifest['config']['digest']))['config']
    for layer in manifest['layers']:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(read(layer['digest'])))) as tar:
            for member in tar:
                files['/' + member.name] = [oct(member.mode), member.uid, member.mtime]
json.dump(files, sys.stdout)
";
    let output = Command::new("python3").args(["-c", listing]).arg(&image).output().unwrap();
    let files = serde_json::from_slice(&output.stdout).unwrap();
    (digest, files, serde_json::from_slice(&std::fs::read(&bill).unwrap()).unwrap())
}

#[test]
fn the_same_inputs_make_the_same_image_and_its_bill_names_what_is_in_it() {
    if Command::new("apt-get").arg("--version").output().is_err() {
        println!("skipped: the image is made of Debian packages, and there is no apt-get");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (digest, files, bill) = built(dir.path(), "one");
    let (again, _, bill_again) = built(dir.path(), "two");
    assert_eq!((&digest, &bill), (&again, &bill_again));

    assert_eq!(files["config"]["User"], "65532:65532");
    assert_eq!(files["config"]["Entrypoint"][0], "/usr/bin/elava");
    for needed in [
        "/usr/bin/elava",
        "/etc/ssl/certs/ca-certificates.crt",
        "/usr/share/zoneinfo/UTC",
        "/var/lib/dpkg/status.d/libc6",
    ] {
        assert!(files.contains_key(needed), "{needed} is in the image");
    }
    for file in files.keys().filter(|file| file.contains("/bin/") || file.contains("/sbin/")) {
        assert_eq!(file, "/usr/bin/elava", "no shell, no other program");
    }
    for (file, entry) in files.iter().filter(|(file, _)| *file != "config") {
        let mode = entry[0].as_str().unwrap();
        assert!(entry[2] == 0 && !mode.starts_with("0o4"), "{file}: {entry}");
        let is_the_users = file == "/var/lib/elava";
        assert_eq!(entry[1], if is_the_users { 65532 } else { 0 }, "{file}");
    }

    assert_eq!((bill["bomFormat"].as_str(), bill["specVersion"].as_str()), (Some("CycloneDX"), Some("1.6")));
    let components = bill["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert!(named("libc6")["purl"].as_str().unwrap().starts_with("pkg:deb/debian/libc6@"));
    for linked in ["redb", "kube", "tokio", "aws-sdk-ec2"] {
        let component = named(linked);
        assert!(
            component["licenses"][0]["expression"].is_string() && component["hashes"][0]["content"].is_string()
        );
    }
    assert!(components.iter().all(|c| c["name"] != "proptest"), "what only tests use is not in it");
}
