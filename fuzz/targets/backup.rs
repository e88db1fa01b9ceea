//! A backup from an untrusted source: only a complete backup is restored as a store.
#![no_main]

use elava::store::Store;
use libfuzzer_sys::fuzz_target;

/// redb panics on bytes that it did not write; the store catches the panic and returns an error. This hook allows that;
/// an uncaught panic still fails the run.
static CAUGHT: std::sync::Once = std::sync::Once::new();

fuzz_target!(|data: &[u8]| {
    CAUGHT.call_once(|| match std::env::var_os("PRINT") {
        Some(_) => drop(std::panic::take_hook()),
        None => std::panic::set_hook(Box::new(|_| {})),
    });
    let dir = tempfile::tempdir_in("/dev/shm").expect("there is memory");
    let path = dir.path().join("elava.redb");
    let restored = Store::restore(&mut &*data, &path);
    assert_eq!(restored.is_ok(), path.exists(), "{restored:?}");
});
