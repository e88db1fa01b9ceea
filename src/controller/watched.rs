//! Watches all namespaces, or several as if they were one watch, object by object. An unreadable object is reported and
//! skipped, and does not affect others. No namespace can fill the shared memory: only what the operator reads of each
//! object is kept, and the total size per namespace is limited.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::core::NamespaceResourceScope;
use kube::core::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::api::GROUP;

/// Maximum size, as JSON, of the objects of one tenant-written kind in a namespace: a CloudScan with a hundred accounts
/// has 12 KiB.
pub(super) const NAMESPACE_OBJECTS_MAX_BYTES: usize = 8 << 20;
/// For objects that the operator writes: their number has its own limit.
pub(super) const UNBOUNDED: usize = usize::MAX;
/// Objects per page of a list: each may have the maximum size that the API server allows, 1.5 MiB.
const LIST_PAGE_SIZE: u32 = 50;
/// Maximum characters kept of the value of an Elava annotation.
const ANNOTATION_MAX_CHARS: usize = 4096;

/// An existing object that can't be read: it was written under another version of its kind.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub kind: String,
    pub api_version: String,
    pub object: InvalidObject,
}

/// The objects of a kind in these namespaces, or in all if none is named: a complete list, then each change. Unreadable
/// objects are sent to `unreadable` instead; the last readable version stays in force. The same holds for objects that
/// exceed `most_bytes` in their namespace.
pub(super) fn watched<K>(
    client: &Client,
    namespaces: &[String],
    unreadable: mpsc::UnboundedSender<Unreadable>,
    most_bytes: usize,
) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    readable(guarded(client, namespaces), unreadable, most_bytes)
}

/// Passes on the events of readable objects.
pub(super) fn readable<K>(
    events: BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>,
    unreadable: mpsc::UnboundedSender<Unreadable>,
    most_bytes: usize,
) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource + Serialize + Send + 'static,
    K::DynamicType: Default,
{
    let mut reader = Reader { unreadable, most_bytes, held: Held::default(), listing: Held::default() };
    events.filter_map(move |result| std::future::ready(result.map(|event| reader.see(event)).transpose())).boxed()
}

/// Sizes of the held objects, by namespace.
#[derive(Default)]
struct Held(HashMap<String, InNamespace>);

#[derive(Default)]
struct InNamespace {
    bytes: usize,
    by_name: HashMap<String, usize>,
}

impl Held {
    /// Adds the object if its namespace has room, and returns whether it was added.
    fn put(&mut self, metadata: &ObjectMeta, bytes: usize, most: usize) -> bool {
        let (namespace, name) =
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let here = self.0.entry(namespace).or_default();
        let others = here.bytes - here.by_name.get(&name).copied().unwrap_or_default();
        let has_room = others + bytes <= most;
        if has_room {
            here.bytes = others + bytes;
            here.by_name.insert(name, bytes);
        }
        has_room
    }

    fn drop(&mut self, metadata: &ObjectMeta) {
        let here = self.0.get_mut(metadata.namespace.as_deref().unwrap_or_default());
        if let Some(here) = here
            && let Some(bytes) = here.by_name.remove(metadata.name.as_deref().unwrap_or_default())
        {
            here.bytes -= bytes;
        }
    }
}

struct Reader {
    unreadable: mpsc::UnboundedSender<Unreadable>,
    most_bytes: usize,
    held: Held,
    /// Collected from a list that is not complete yet.
    listing: Held,
}

impl Reader {
    fn see<K>(&mut self, event: Event<DeserializeGuard<K>>) -> Option<Event<K>>
    where
        K: Resource + Serialize,
        K::DynamicType: Default,
    {
        match event {
            Event::Init => {
                self.listing = Held::default();
                Some(Event::Init)
            }
            Event::InitApply(object) => self.read(object, true).map(Event::InitApply),
            Event::InitDone => {
                self.held = std::mem::take(&mut self.listing);
                Some(Event::InitDone)
            }
            Event::Apply(object) => self.read(object, false).map(Event::Apply),
            Event::Delete(object) => {
                self.held.drop(object.meta());
                object.0.map_err(|object| self.report::<K>(object)).ok().map(Event::Delete)
            }
        }
    }

    fn read<K>(&mut self, DeserializeGuard(object): DeserializeGuard<K>, is_listed: bool) -> Option<K>
    where
        K: Resource + Serialize,
        K::DynamicType: Default,
    {
        let object = object.map_err(|object| self.report::<K>(object)).ok()?;
        let bytes = serde_json::to_vec(&object).map_or(0, |json| json.len());
        let held = if is_listed { &mut self.listing } else { &mut self.held };
        if !held.put(object.meta(), bytes, self.most_bytes) {
            let error = format!(
                "it takes {} KiB, and with the others of its kind its namespace takes more than {} KiB: write less, or \
                 delete some",
                bytes >> 10,
                self.most_bytes >> 10
            );
            self.report::<K>(InvalidObject { error, metadata: object.meta().clone() });
            return None;
        }
        Some(object)
    }

    fn report<K>(&self, object: InvalidObject)
    where
        K: Resource,
        K::DynamicType: Default,
    {
        let of = K::DynamicType::default();
        let (kind, api_version) = (K::kind(&of).into_owned(), K::api_version(&of).into_owned());
        let _ = self.unreadable.send(Unreadable { kind, api_version, object });
    }
}

/// Removes what the operator does not read: managed fields are half of an object, and annotations of others may take a
/// quarter of a megabyte.
fn strip(object: &mut impl ResourceExt) {
    object.managed_fields_mut().clear();
    object.annotations_mut().retain(|key, value| {
        if let Some((end, _)) = value.char_indices().nth(ANNOTATION_MAX_CHARS) {
            value.truncate(end);
        }
        key.split('/').next() == Some(GROUP)
    });
}

/// All objects as they arrive, including unreadable ones.
pub(super) fn guarded<K>(
    client: &Client,
    namespaces: &[String],
) -> BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let one = move |api: Api<DeserializeGuard<K>>| {
        watch(api, watcher::Config::default().page_size(LIST_PAGE_SIZE)).default_backoff().modify(strip)
    };
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
    /// None until the first list is complete.
    objects: Option<BTreeMap<String, K>>,
    /// Collected from a list that is not complete yet.
    listing: BTreeMap<String, K>,
}

/// Several watches as one: nothing is passed on before every part has a complete list, and a list always contains all
/// parts.
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

    fn kinds_of(events: Vec<Event<ConfigMap>>) -> Vec<String> {
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
        let events = readable(stream::iter(events).map(Ok).boxed(), report, UNBOUNDED);
        let read: Vec<_> = events.map(|event| kinds_of(vec![event.unwrap()]).remove(0)).collect().await;
        assert_eq!(read, ["init", "has a", "done", "apply b"]);
        let first = reported.recv().await.unwrap();
        assert_eq!((first.kind.as_str(), first.object.metadata.name.as_deref()), ("ConfigMap", Some("bad")));
        assert!(reported.recv().await.is_some() && reported.recv().await.is_none(), "each time it comes");
    }

    #[tokio::test]
    async fn a_namespace_holds_so_much_and_no_more_and_another_has_its_own() {
        let sized = |namespace: &str, name: &str, bytes: usize| -> DeserializeGuard<ConfigMap> {
            let metadata = serde_json::json!({"name": name, "namespace": namespace});
            serde_json::from_value(serde_json::json!({"metadata": metadata, "data": {"a": "x".repeat(bytes)}}))
                .unwrap()
        };
        let half = NAMESPACE_OBJECTS_MAX_BYTES / 2;
        let events = [
            Event::Init,
            Event::InitApply(sized("team-a", "first", half)),
            Event::InitApply(sized("team-a", "too-large", half)),
            Event::InitApply(sized("team-b", "first", half)),
            Event::InitApply(sized("team-a", "small", 100)),
            Event::InitDone,
            // A held object may be written again, and grow into the free room.
            Event::Apply(sized("team-a", "first", half + 100)),
            Event::Apply(sized("team-a", "first", 2 * half)),
            Event::Delete(sized("team-a", "first", half)),
            Event::Apply(sized("team-a", "too-large", half)),
            // A new list starts from zero.
            Event::Init,
            Event::InitApply(sized("team-a", "first", half)),
            Event::InitDone,
            Event::Apply(sized("team-a", "too-large", half)),
        ];
        let (report, mut reported) = mpsc::unbounded_channel();
        let events = readable(stream::iter(events).map(Ok).boxed(), report, NAMESPACE_OBJECTS_MAX_BYTES);
        let read: Vec<_> = events.map(|event| kinds_of(vec![event.unwrap()]).remove(0)).collect().await;
        let first = ["init", "has first", "has first", "has small", "done"];
        let then = ["apply first", "delete first", "apply too-large", "init", "has first", "done"];
        assert_eq!(read, [&first[..], &then].concat());
        let mut names = Vec::new();
        while let Some(one) = reported.recv().await {
            assert!(one.object.error.contains("KiB"), "{}", one.object.error);
            names.push(one.object.metadata.name.unwrap());
        }
        assert_eq!(names, ["too-large", "first", "too-large"]);

        // Objects that the operator writes are all held.
        let events = ["first", "second", "third"].map(|name| Event::Apply(sized("team-a", name, half)));
        let (report, mut reported) = mpsc::unbounded_channel();
        let events = readable(stream::iter(events).map(Ok).boxed(), report, UNBOUNDED);
        assert_eq!(events.count().await, 3);
        assert!(reported.recv().await.is_none());
    }

    #[test]
    fn of_annotations_ours_are_held_and_not_without_bounds() {
        let mut object = object("a");
        let long = "\u{fc}".repeat(10_000);
        let annotations =
            [("elava.dev/acknowledged", long.as_str()), ("example.com/note", "x"), ("elava.dev", "x")];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        object.metadata.annotations = Some(annotations.into());
        strip(&mut object);
        assert_eq!(object.annotations()["elava.dev/acknowledged"].chars().count(), ANNOTATION_MAX_CHARS);
        assert!(!object.annotations().contains_key("example.com/note"));
    }

    #[test]
    fn nothing_is_reported_before_every_list_is_complete_and_a_new_list_is_one_of_all() {
        let mut merged = Merged::new(2);
        let mut see = |i, event| kinds_of(merged.see(i, event));
        assert!(see(0, Event::Init).is_empty());
        assert!(see(0, Event::InitApply(object("a"))).is_empty());
        assert!(see(0, Event::InitDone).is_empty(), "the other namespace may hold more");
        assert!(see(0, Event::Apply(object("b"))).is_empty());
        assert!(see(1, Event::Init).is_empty());
        assert!(see(1, Event::InitApply(object("c"))).is_empty());
        assert_eq!(see(1, Event::InitDone), ["init", "has a", "has b", "has c", "done"]);
        assert_eq!(see(1, Event::Delete(object("c"))), ["delete c"]);
        assert_eq!(see(0, Event::Apply(object("d"))), ["apply d"]);
        // A watch that was interrupted lists again: objects missing from its list are gone, those of the other watch
        // are not.
        assert!(see(0, Event::Init).is_empty());
        assert!(see(0, Event::InitApply(object("d"))).is_empty());
        assert_eq!(see(1, Event::Apply(object("e"))), ["apply e"]);
        assert_eq!(see(0, Event::InitDone), ["init", "has d", "has e", "done"]);
    }
}
