//! The lifecycle of a release on a real node: upgrade, rollback, a file of another version, a second operator,
//! uninstall and restore.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::pods::{CheckedInstallation, STORE, TEAM, can_run_node};
use crate::support::cluster::chart;
use crate::support::eventually;
use crate::support::node::{BACKUPS_CLAIM, Installation, NAMESPACE, POD, STORE_CLAIM, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_upgraded_rolled_back_restored_and_taken_away() {
    if !can_run_node() {
        return;
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR"));
    let oldest = std::fs::read(fixtures.join("tests/stores/schema-1.redb.zst")).unwrap();
    let oldest = zstd::decode_all(&*oldest).unwrap();
    let pods = Installation::prepare().await;
    let volume = pods.node.volume("store", STORE_CLAIM);
    let store = volume.join(STORE);

    // The chart of commit db1ec5e, on a volume with the oldest file.
    put(&store, &oldest);
    let old_chart = fixtures.join("e2e/fixtures/chart-db1ec5e.tgz");
    // That chart has no values yet for allowed roles and the minimum interval.
    let allowed = "extraEnv[3].name=ELAVA_ALLOW_ROLE,extraEnv[3].value=*=*,\
                   extraEnv[4].name=ELAVA_MIN_INTERVAL,extraEnv[4].value=1s";
    pods.helm("install", &old_chart, &["--wait", "--timeout", "120s", "--set", allowed]).unwrap();
    let past = |life: &CheckedInstallation| life.pods.query(&["at", "4"]).unwrap()["resources"].clone();
    let mut life = CheckedInstallation::begin(pods).await;
    life.pods.wait_for_open(TEAM, &life.open.clone()).await;
    let then = past(&life);
    assert!(then.as_array().is_some_and(|then| !then.is_empty()), "the oldest file answers: {then}");
    life.remember().await;

    let (before, since) = (life.pods.uid().unwrap(), Instant::now());
    life.pods.helm("upgrade", &chart(), &["--wait", "--timeout", "120s", "--set", "log.filter=debug"]).unwrap();
    life.until_another_pod_is_ready(&before).await;
    life.assert_recovered("helm upgrade from the chart of db1ec5e", since).await;
    assert_eq!(past(&life), then);
    let (before, since) = (life.pods.uid().unwrap(), Instant::now());
    life.pods.node.helm(&["rollback", "elava", "1", "--namespace", NAMESPACE, "--wait", "--timeout", "120s"]);
    life.until_another_pod_is_ready(&before).await;
    life.assert_recovered("helm rollback", since).await;
    assert_eq!(past(&life), then);
    life.pods.helm("upgrade", &chart(), &["--wait", "--timeout", "120s"]).unwrap();
    life.pods.until_ready().await;

    newer_file(&mut life, &store).await;
    two_on_one_volume(&mut life, &store).await;
    let backup = backed_up(&life).await;

    // Nothing waits for the operator after it is uninstalled.
    life.pods.node.helm(&["uninstall", "elava", "--namespace", NAMESPACE, "--wait"]);
    let left = life.pods.node.run(&["get", "crds,cloudscans,pvc", "-A", "-o", "name"]);
    for kept in ["cloudscans.elava.dev", "cloudscan.elava.dev/one", "persistentvolumeclaim/store-elava-0"] {
        assert!(left.contains(kept), "{kept} is kept: {left}");
    }
    restored(&mut life, &backup).await;

    life.pods.node.helm(&["uninstall", "elava", "--namespace", NAMESPACE, "--wait"]);
    for namespace in [TEAM, NAMESPACE] {
        life.pods.node.run(&["delete", "namespace", namespace, "--timeout=60s"]);
    }
}

/// A file that a newer Elava wrote is refused and not changed.
async fn newer_file(life: &mut CheckedInstallation, store: &Path) {
    const META: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("meta");
    life.pods.scale(0).await;
    let mine = std::fs::read(store).unwrap();
    let database = redb::Database::open(store).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(META).unwrap().insert("schema", 99_u32.to_be_bytes().as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let newer = std::fs::read(store).unwrap();
    life.pods.node.run(&["scale", "statefulset/elava", "-n", NAMESPACE, "--replicas=1"]);
    let refused = || async {
        let output = life.pods.node.kubectl(&["logs", POD, "-n", NAMESPACE]);
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        if log.contains("a newer Elava wrote it") { Ok(()) } else { Err(log) }
    };
    eventually("the older binary says that the file is newer, and what to do", refused).await;
    life.pods.scale(0).await;
    assert!(std::fs::read(store).unwrap() == newer, "nothing was touched");
    let since = Instant::now();
    put(store, &mine);
    life.pods.scale(1).await;
    life.assert_recovered("the file was a newer Elava's, until the right one was back", since).await;
}

/// A second operator on the same volume refuses to start, and reports why.
async fn two_on_one_volume(life: &mut CheckedInstallation, store: &Path) {
    let set = life.pods.node.run(&["get", "statefulset", "elava", "-n", NAMESPACE, "-o=json"]);
    let set: Value = serde_json::from_str(&set).unwrap();
    let mut spec = set["spec"]["template"]["spec"].clone();
    let claim = json!({"name": "store", "persistentVolumeClaim": {"claimName": STORE_CLAIM}});
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(claim),
        None => spec["volumes"] = json!([claim]),
    }
    spec["restartPolicy"] = json!("Never");
    let second = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "second", "namespace": NAMESPACE}, "spec": spec,
    });
    let size = std::fs::metadata(store).unwrap().len();
    life.pods.node.apply(&second.to_string()).unwrap();
    let since = Instant::now();
    life.pods.node.run(&[
        "wait",
        "--for=jsonpath={.status.phase}=Failed",
        "pod/second",
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ]);
    let log = life.pods.node.run(&["logs", "second", "-n", NAMESPACE]);
    assert!(log.contains("another process"), "{log}");
    assert!(std::fs::metadata(store).unwrap().len() >= size);
    life.pods.node.run(&["delete", "pod", "second", "-n", NAMESPACE]);
    life.assert_recovered("a second operator wanted the same volume", since).await;
}

/// `kubectl exec` can truncate the output of a command and still succeed
/// (<https://github.com/kubernetes/kubernetes/issues/124571>): the backup is tested by restoring it, as
/// docs/operations.md describes.
async fn backed_up(life: &CheckedInstallation) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let whole = || async {
        let backup = life.pods.node.kubectl(&["exec", "-n", NAMESPACE, POD, "--", "elava", "store", "backup"]);
        assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
        let restored = elava::store::Store::restore(&mut &*backup.stdout, &dir.path().join("copy.redb"));
        match restored {
            Ok(_) => Ok(backup.stdout),
            Err(error) => {
                println!("{} bytes came of a backup: {error}", backup.stdout.len());
                Err(error.to_string())
            }
        }
    };
    eventually("a backup comes whole", whole).await
}

/// Restores a backup into an empty installation.
async fn restored(life: &mut CheckedInstallation, backup: &[u8]) {
    life.pods.node.run(&["delete", "pvc", STORE_CLAIM, "-n", NAMESPACE]);
    life.pods.node.run(&["delete", "pv", "store"]);
    life.pods.node.volume("empty", STORE_CLAIM);
    let backups: PathBuf = life.pods.node.volume("backups", BACKUPS_CLAIM);
    put(&backups.join("of-yesterday.backup"), backup);
    let since = Instant::now();
    let restoring = ["--set", "backup.enabled=true", "--set", "restore.from=of-yesterday.backup"];
    life.pods.install(&restoring);
    // Revisions continue 2^32 later: earlier answers are unchanged.
    life.assert_recovered("a backup was restored into an empty installation", since).await;
    // Restarted with the same values, it does not restore again.
    let before = life.pods.uid().unwrap();
    let since = Instant::now();
    life.pods.node.run(&["delete", "pod", POD, "-n", NAMESPACE]);
    life.until_another_pod_is_ready(&before).await;
    life.assert_recovered("the restored one was restarted", since).await;
    // The first scheduled backup was made, too.
    let made = || async {
        let names: Vec<String> = std::fs::read_dir(&backups)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("elava-") && name.ends_with(".backup"))
            .collect();
        if names.is_empty() { Err(format!("{names:?}")) } else { Ok(()) }
    };
    eventually("a backup is made by itself", made).await;
}
