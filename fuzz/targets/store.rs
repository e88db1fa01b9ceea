//! A damaged or foreign file: opening and reading it never panics.
#![no_main]

use elava::inventory::{Filter, Moment, Snapshot};
use elava::store::{Store, system_clock};
use libfuzzer_sys::fuzz_target;

/// The oldest file, in which the input damages some bytes: a fuzzer cannot create a database from nothing.
static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let packed = include_bytes!("../../tests/stores/schema-1.redb.zst");
    zstd::decode_all(&packed[..]).expect("it is whole")
});

/// redb panics on bytes that it did not write; the store catches the panic and returns an error. This hook allows that;
/// an uncaught panic still fails the run.
static CAUGHT: std::sync::Once = std::sync::Once::new();

fuzz_target!(|damage: Vec<(u16, u8, u8)>| {
    CAUGHT.call_once(|| match std::env::var_os("PRINT") {
        Some(_) => drop(std::panic::take_hook()),
        None => std::panic::set_hook(Box::new(|_| {})),
    });
    let mut file = WHOLE.clone();
    for (page, at, with) in damage {
        let place = (usize::from(page) * 256 + usize::from(at)) % file.len();
        file[place] ^= with;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("there is memory");
    let path = dir.path().join("elava.redb");
    std::fs::write(&path, &file).expect("there is memory");
    let Ok(store) = Store::open_existing(&path, system_clock()) else { return };
    let _ = store.check();
    if let Ok(snapshot) = store.snapshot(Moment::Now) {
        let _ = snapshot.resources(&Filter::default());
    }
});
