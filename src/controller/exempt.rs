//! FindingExemptions: which are in force, and their status.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, WatchStreamExt};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;

use super::watched::{NAMESPACE_OBJECTS_MAX_BYTES, Unreadable, watched};
use super::{Context, ReconcileError, apply, build, catch_panic, with_deadline};
use crate::api::{FindingExemption, FindingExemptionStatus, SpecError, condition, reason};
use crate::inventory::{Exemption, NAMESPACE_EXPRESSIONS_MAX_BYTES, Timestamp};

/// How long before its end an exemption warns that it expires.
const EXPIRY_WARNING_PERIOD: Duration = Duration::from_hours(7 * 24);
/// Interval between updates of the number of findings that an exemption exempts.
const COUNT_INTERVAL: Duration = Duration::from_mins(1);

/// The valid exemptions of a namespace. The rules skip expired ones.
pub(super) fn of_namespace(namespace: Option<&str>, context: &Context) -> Vec<Exemption> {
    let mut exemptions: Vec<Exemption> =
        read(namespace, context).into_iter().filter_map(|(_, exemption)| exemption.ok()).collect();
    // If several match, the same one is named every time.
    exemptions.sort_by(|a, b| a.name.cmp(&b.name));
    exemptions
}

type Read = (Arc<FindingExemption>, Result<Exemption, SpecError>);

/// The exemptions of a namespace, the oldest first, each with its error if it is invalid.
fn read(namespace: Option<&str>, context: &Context) -> Vec<Read> {
    let here = |exemption: &Arc<FindingExemption>| {
        exemption.namespace().as_deref() == namespace && exemption.metadata.deletion_timestamp.is_none()
    };
    within_budget(context.exemptions.state().into_iter().filter(here).collect())
}

/// Their expressions share a budget: the oldest keep theirs.
fn within_budget(mut exemptions: Vec<Arc<FindingExemption>>) -> Vec<Read> {
    exemptions.sort_by_key(|e| (e.creation_timestamp(), e.name_any()));
    let over = || {
        let message = format!(
            "with it the keyPatterns of this namespace take more than {} MiB when they are compiled: select by kinds, types, \
             accounts, regions or tags, or repeat less",
            NAMESPACE_EXPRESSIONS_MAX_BYTES >> 20
        );
        SpecError::new("spec.selector.keyPattern", message)
    };
    let (mut spent, mut is_spent) = (0, false);
    let mut one = |exemption: Arc<FindingExemption>| {
        // Expressions after the first one over the budget are not compiled either.
        if is_spent && exemption.spec.selector.key_pattern.is_some() {
            return (exemption, Err(over()));
        }
        let read = exemption.exemption().and_then(|read| {
            let Some(key) = &read.selector.key else { return Ok(read) };
            spent += key.bytes();
            is_spent = spent > NAMESPACE_EXPRESSIONS_MAX_BYTES;
            if is_spent { Err(over()) } else { Ok(read) }
        });
        (exemption, read)
    };
    exemptions.into_iter().map(&mut one).collect()
}

pub(super) async fn run(
    context: Arc<Context>,
    unreadable: mpsc::UnboundedSender<Unreadable>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let (exemptions, writer) = reflector::store();
    let stream =
        watched::<FindingExemption>(&context.client, &context.namespaces, unreadable, NAMESPACE_OBJECTS_MAX_BYTES);
    let stream = stream.reflect(writer).applied_objects();
    Controller::for_stream(stream, exemptions)
        .graceful_shutdown_on(stop)
        .run(reconcile, |_, _, _| Action::requeue(super::BACKOFF_MAX), context)
        .for_each(|result| async {
            if let Err(error) = result {
                tracing::debug!("exemptions: {error}");
            }
        })
        .await;
}

async fn reconcile(exemption: Arc<FindingExemption>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.meters.measure("exemption", catch_panic(Box::pin(reconciled(&exemption, &context)))).await
}

async fn reconciled(exemption: &FindingExemption, context: &Context) -> Result<Action, ReconcileError> {
    let now = context.store.now();
    let held_back = apply::held_back(context, &ObjectRef::from_obj(exemption));
    let all = read(exemption.namespace().as_deref(), context);
    let own = all.into_iter().find(|(other, _)| other.name_any() == exemption.name_any());
    let read = own.map_or_else(|| exemption.exemption(), |(_, read)| read);
    let status = status(exemption, read, held_back, now);
    if exemption.status.as_ref() != Some(&status) {
        let mut object = FindingExemption::new(&exemption.name_any(), exemption.spec.clone());
        object.status = Some(status);
        let mut patch = serde_json::to_value(&object).expect("an exemption is JSON");
        patch.as_object_mut().expect("it is an object").remove("spec");
        let namespace = exemption.namespace().unwrap_or_default();
        let api: Api<FindingExemption> = Api::namespaced(context.client.clone(), &namespace);
        let params = PatchParams::apply(build::MANAGER).force();
        with_deadline(api.patch_status(&exemption.name_any(), &params, &Patch::Apply(&patch))).await?;
    }
    Ok(Action::requeue(COUNT_INTERVAL))
}

fn status(
    exemption: &FindingExemption,
    read: Result<Exemption, SpecError>,
    held_back: usize,
    now: Timestamp,
) -> FindingExemptionStatus {
    let before = exemption.status.clone().unwrap_or_default();
    let generation = exemption.metadata.generation;
    let condition = |type_: &str, is_true: bool, reason: &str, message: String| {
        let status = if is_true { condition::TRUE } else { condition::FALSE };
        let was = before.conditions.iter().find(|c| c.type_ == type_ && c.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: was.map_or_else(|| Time(now.to_jiff()), |c| c.last_transition_time.clone()),
        }
    };
    let expires = exemption.spec.expires_at;
    let until = expires.map_or("until it is deleted".to_owned(), |at| format!("until {at}"));
    let is_over = expires.is_some_and(|at| now >= at);
    let active = match (read, expires) {
        (Err(SpecError { path, message }), _) => {
            condition(condition::ACTIVE, false, reason::INVALID_SPEC, format!("{path}: {message}"))
        }
        (Ok(_), Some(at)) if is_over => {
            let message = format!(
                "it expired at {at}: what it held back is open again; delete it, or set a later expiresAt"
            );
            condition(condition::ACTIVE, false, reason::EXPIRED, message)
        }
        (Ok(_), _) => {
            condition(condition::ACTIVE, true, reason::IN_FORCE, format!("it holds back what it names, {until}"))
        }
    };
    let soon = match expires {
        Some(at) if !is_over && at.since(now) <= EXPIRY_WARNING_PERIOD => condition(
            condition::EXPIRING_SOON,
            true,
            reason::EXPIRES,
            format!("it ends at {at}: what it holds back opens again then"),
        ),
        _ => condition(
            condition::EXPIRING_SOON,
            false,
            reason::NOT_SOON,
            "it does not end within a week".to_owned(),
        ),
    };
    FindingExemptionStatus {
        observed_generation: generation,
        conditions: vec![active, soon],
        findings: Some(i64::try_from(held_back).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_reports_when_it_ends_and_that_it_has_ended() {
        let day = |n: i64| Timestamp::from_millis(n * 86_400_000);
        let with = |expires: Option<i64>, pattern: &str| {
            let mut exemption: FindingExemption = serde_json::from_value(json!({
                "apiVersion": "elava.dev/v1alpha1", "kind": "FindingExemption", "metadata": {"name": "x"},
                "spec": {"selector": {"keyPattern": pattern}, "reason": "r", "requester": "q"},
            }))
            .unwrap();
            exemption.spec.expires_at = expires.map(day);
            exemption
        };
        let reported = |expires: Option<i64>, pattern: &str, now: i64| {
            let exemption = with(expires, pattern);
            let conditions = status(&exemption, exemption.exemption(), 3, day(now)).conditions;
            conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect::<Vec<_>>()
        };
        assert_eq!(reported(None, "x", 1), ["Active=True InForce", "ExpiringSoon=False NotSoon"]);
        assert_eq!(reported(Some(9), "x", 1), ["Active=True InForce", "ExpiringSoon=False NotSoon"]);
        assert_eq!(reported(Some(8), "x", 1), ["Active=True InForce", "ExpiringSoon=True Expires"]);
        assert_eq!(reported(Some(1), "x", 1), ["Active=False Expired", "ExpiringSoon=False NotSoon"]);
        assert_eq!(reported(None, "a(", 1)[0], "Active=False InvalidSpec");
        assert_eq!(reported(None, r"\w{205}", 1)[0], "Active=False InvalidSpec", "too large");
    }

    #[test]
    fn the_expressions_of_a_namespace_have_a_budget_and_one_without_needs_none_of_it() {
        let with = |name: String, selector: serde_json::Value| {
            let exemption: FindingExemption = serde_json::from_value(json!({
                "apiVersion": "elava.dev/v1alpha1", "kind": "FindingExemption", "metadata": {"name": name},
                "spec": {"selector": selector, "reason": "r", "requester": "q"},
            }))
            .unwrap();
            Arc::new(exemption)
        };
        let large =
            |number: usize| with(format!("{number:03}"), json!({"keyPattern": format!(r"\w{{1,60}}-{number}")}));
        let mut all: Vec<_> = (0..100).map(large).collect();
        all.push(with("zzz".to_owned(), json!({"kinds": ["Untagged"]})));
        let read = within_budget(all);
        let good = read.iter().filter(|(_, read)| read.is_ok()).count();
        assert!((5..100).contains(&good), "{good} are within it");
        assert!(read[0].1.is_ok() && read[99].1.is_err(), "the oldest keep theirs");
        assert!(read[100].1.is_ok(), "it takes nothing of it");
    }
}
