//! Faults that a change could introduce into the store, each of which the tests must detect. They exist only in
//! test builds, and are inactive unless `ELAVA_MUTANT` names one.

/// Whether the fault of this name is active. Never outside of tests.
#[cfg(not(test))]
pub(super) const fn is_awake(_name: &str) -> bool {
    false
}

#[cfg(test)]
pub(super) fn is_awake(name: &str) -> bool {
    static AWAKE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    AWAKE.get_or_init(|| std::env::var("ELAVA_MUTANT").unwrap_or_default()) == name
}

#[cfg(test)]
mod tests {
    /// Each with a test that must fail when it is active.
    const MUTANTS: [(&str, &str); 6] = [
        ("the sync is skipped", "faults::a_crash_at_any_operation_loses_nothing_that_was_acknowledged"),
        (
            "published before it is durable",
            "tests::files::while_the_disk_syncs_nothing_is_published_reads_go_on_and_what_queues_shares_one_transaction",
        ),
        (
            "a partial sweep ends lives",
            "tests::absence::partial_failed_and_held_sweeps_and_failed_re_reads_end_nothing",
        ),
        (
            "the newest below the floor is dropped",
            "tests::model::what_is_kept_answers_as_before_and_the_rest_names_the_nearest_moments",
        ),
        ("a head is not cleared", "tests::model::state_at_every_revision_equals_a_full_copy"),
        (
            "suspects are lost on restart",
            "tests::absence::misses_survive_a_restart_and_what_comes_back_is_no_disappearance",
        ),
    ];

    #[test]
    fn every_mutant_is_caught() {
        for (mutant, test) in MUTANTS {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &format!("store::{test}")])
                .env("ELAVA_MUTANT", mutant)
                .env("ELAVA_FAULTS", "200")
                // It only has to fail: no shrinking.
                .env("PROPTEST_MAX_SHRINK_ITERS", "0")
                .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
                .output()
                .unwrap();
            let reported = String::from_utf8_lossy(&output.stdout);
            assert!(reported.contains("running 1 test"), "there is no test {test}");
            assert!(reported.contains("1 failed"), "{mutant}: nothing noticed\n{reported}");
        }
    }
}
