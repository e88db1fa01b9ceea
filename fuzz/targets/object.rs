//! An object that a namespace's editor applied, as the API server delivers it: decoded and converted to settings.
#![no_main]

use elava::api::{CloudScan, FindingExemption, ResourceFinding};
use kube::core::DeserializeGuard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(DeserializeGuard(Ok(scan))) = serde_json::from_slice::<DeserializeGuard<CloudScan>>(data) {
        let _ = (scan.spec.interval(), scan.spec.loss_limits(), scan.spec.rule_settings());
    }
    if let Ok(DeserializeGuard(Ok(exemption))) = serde_json::from_slice::<DeserializeGuard<FindingExemption>>(data) {
        let _ = exemption.exemption();
    }
    let _ = serde_json::from_slice::<DeserializeGuard<ResourceFinding>>(data);
});
