//! A backup that somebody hands over: a store is made of a whole one only.
#![no_main]

use elava::store::Store;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir_in("/dev/shm").expect("there is memory");
    let path = dir.path().join("elava.redb");
    let restored = Store::restore(&mut &*data, &path);
    assert_eq!(restored.is_ok(), path.exists(), "{restored:?}");
});
