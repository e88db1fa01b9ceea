//! Watches over all namespaces, or over some as if it were one watch, object by object: one that can't be read is reported
//! and skipped, and stops no other.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::core::NamespaceResourceScope;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// An object that is there and can't be read: it was written under another version of its kind.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub kind: String,
    pub api_version: String,
    pub object: InvalidObject,
}

/// The objects of a kind in these namespaces, in all where none is named: a complete list, then each change. What can't
/// be read goes to `unreadable` instead; of one that could be read before, that goes on.
pub(super) fn watched<K>(
    client: &Client,
    namespaces: &[String],
    unreadable: mpsc::UnboundedSender<Unreadable>,
) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    readable(guarded(client, namespaces), unreadable)
}

/// What of these events can be read.
pub(super) fn readable<K>(
    events: BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>,
    unreadable: mpsc::UnboundedSender<Unreadable>,
) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource + Send + 'static,
    K::DynamicType: Default,
{
    let read = move |DeserializeGuard(object): DeserializeGuard<K>| match object {
        Ok(object) => Some(object),
        Err(object) => {
            let of = K::DynamicType::default();
            let (kind, api_version) = (K::kind(&of).into_owned(), K::api_version(&of).into_owned());
            let _ = unreadable.send(Unreadable { kind, api_version, object });
            None
        }
    };
    let event = move |event| match event {
        Event::Init => Some(Event::Init),
        Event::InitApply(object) => read(object).map(Event::InitApply),
        Event::InitDone => Some(Event::InitDone),
        Event::Apply(object) => read(object).map(Event::Apply),
        Event::Delete(object) => read(object).map(Event::Delete),
    };
    events.filter_map(move |result| std::future::ready(result.map(&event).transpose())).boxed()
}

/// As they come, with what can't be read.
pub(super) fn guarded<K>(
    client: &Client,
    namespaces: &[String],
) -> BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    // Who set which field is half of an object, and nobody here asks.
    let bare = |object: &mut DeserializeGuard<K>| object.managed_fields_mut().clear();
    let one =
        move |api: Api<DeserializeGuard<K>>| watch(api, watcher::Config::default()).default_backoff().modify(bare);
    if namespaces.is_empty() {
        return one(Api::all(client.clone())).boxed();
    }
    let part = |(i, namespace): (usize, &String)| {
        one(Api::namespaced(client.clone(), namespace)).map_ok(move |event| (i, event)).boxed()
    };
    let parts: Vec<_> = namespaces.iter().enumerate().map(part).collect();
    let mut merged = Merged::new(parts.len());
    stream::select_all(parts)
        .flat_map(move |event| match event {
            Ok((i, event)) => stream::iter(merged.see(i, event)).map(Ok).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .boxed()
}

struct Part<K> {
    /// None until the first list was complete.
    objects: Option<BTreeMap<String, K>>,
    /// A list that is under way.
    listing: BTreeMap<String, K>,
}

/// Several watches as one: nothing is told before each has a complete list, and a list that is told is one of all.
struct Merged<K> {
    parts: Vec<Part<K>>,
}

impl<K: Resource + Clone> Merged<K> {
    fn new(parts: usize) -> Self {
        Self { parts: (0..parts).map(|_| Part { objects: None, listing: BTreeMap::new() }).collect() }
    }

    fn see(&mut self, i: usize, event: Event<K>) -> Vec<Event<K>> {
        let part = &mut self.parts[i];
        match event {
            Event::Init => part.listing.clear(),
            Event::InitApply(object) => drop(part.listing.insert(object.name_any(), object)),
            Event::InitDone => {
                part.objects = Some(std::mem::take(&mut part.listing));
                return self.all();
            }
            Event::Apply(object) => {
                if let Some(objects) = &mut part.objects {
                    objects.insert(object.name_any(), object.clone());
                }
                return self.change(Event::Apply(object));
            }
            Event::Delete(object) => {
                if let Some(objects) = &mut part.objects {
                    objects.remove(&object.name_any());
                }
                return self.change(Event::Delete(object));
            }
        }
        Vec::new()
    }

    fn is_complete(&self) -> bool {
        self.parts.iter().all(|part| part.objects.is_some())
    }

    fn all(&self) -> Vec<Event<K>> {
        if !self.is_complete() {
            return Vec::new();
        }
        let objects = self.parts.iter().flat_map(|part| part.objects.iter().flat_map(BTreeMap::values));
        let applied = objects.cloned().map(Event::InitApply);
        std::iter::once(Event::Init).chain(applied).chain([Event::InitDone]).collect()
    }

    fn change(&self, event: Event<K>) -> Vec<Event<K>> {
        if self.is_complete() { vec![event] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object
    }

    fn told(events: Vec<Event<ConfigMap>>) -> Vec<String> {
        let each = |event: Event<ConfigMap>| match event {
            Event::Init => "init".to_owned(),
            Event::InitApply(object) => format!("has {}", object.name_any()),
            Event::InitDone => "done".to_owned(),
            Event::Apply(object) => format!("apply {}", object.name_any()),
            Event::Delete(object) => format!("delete {}", object.name_any()),
        };
        events.into_iter().map(each).collect()
    }

    #[tokio::test]
    async fn one_that_can_not_be_read_is_reported_and_stops_no_other() {
        let guard =
            |json: serde_json::Value| -> DeserializeGuard<ConfigMap> { serde_json::from_value(json).unwrap() };
        let good = |name: &str| guard(serde_json::json!({"metadata": {"name": name}, "data": {"a": "b"}}));
        let bad = || guard(serde_json::json!({"metadata": {"name": "bad", "namespace": "team-a"}, "data": 7}));
        let events = [
            Event::Init,
            Event::InitApply(good("a")),
            Event::InitApply(bad()),
            Event::InitDone,
            Event::Apply(bad()),
            Event::Apply(good("b")),
        ];
        let (report, mut reported) = mpsc::unbounded_channel();
        let events = readable(stream::iter(events).map(Ok).boxed(), report);
        let read: Vec<_> = events.map(|event| told(vec![event.unwrap()]).remove(0)).collect().await;
        assert_eq!(read, ["init", "has a", "done", "apply b"]);
        let first = reported.recv().await.unwrap();
        assert_eq!((first.kind.as_str(), first.object.metadata.name.as_deref()), ("ConfigMap", Some("bad")));
        assert!(reported.recv().await.is_some() && reported.recv().await.is_none(), "each time it comes");
    }

    #[test]
    fn nothing_is_told_before_every_list_is_complete_and_a_new_list_is_one_of_all() {
        let mut merged = Merged::new(2);
        let mut see = |i, event| told(merged.see(i, event));
        assert!(see(0, Event::Init).is_empty());
        assert!(see(0, Event::InitApply(object("a"))).is_empty());
        assert!(see(0, Event::InitDone).is_empty(), "the other namespace may hold more");
        assert!(see(0, Event::Apply(object("b"))).is_empty());
        assert!(see(1, Event::Init).is_empty());
        assert!(see(1, Event::InitApply(object("c"))).is_empty());
        assert_eq!(see(1, Event::InitDone), ["init", "has a", "has b", "has c", "done"]);
        assert_eq!(see(1, Event::Delete(object("c"))), ["delete c"]);
        assert_eq!(see(0, Event::Apply(object("d"))), ["apply d"]);
        // A watch that was cut off lists again: what it no longer has is gone, what the other has is not.
        assert!(see(0, Event::Init).is_empty());
        assert!(see(0, Event::InitApply(object("d"))).is_empty());
        assert_eq!(see(1, Event::Apply(object("e"))), ["apply e"]);
        assert_eq!(see(0, Event::InitDone), ["init", "has d", "has e", "done"]);
    }
}
