//! What the rules and queries need to know of a provider's resource types: which fields of a described object
//! reference other resources, what a resource is part of, how it can be unused, what it is billed for. Each provider
//! supplies its own [`ProviderFacts`]; rules and queries know no provider by name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::document::texts;
use super::{OwnerSource, Resource, ResourceKey, ResourceType, Severity, TagSet};

/// A field of one type that contains ids of another.
#[derive(Debug)]
pub struct Edge {
    /// The type whose documents have the field.
    pub from: &'static str,
    /// Steps pass through lists.
    pub path: &'static str,
    /// The relation in words, from `from` to `to`.
    pub relation: &'static str,
    /// The type of the resources whose ids the field contains.
    pub to: &'static str,
    /// The referenced resource serves a purpose by being referenced.
    pub gives_purpose: bool,
    /// Applies only if this field is true or a non-empty list.
    pub only_with: Option<&'static str>,
}

impl Edge {
    /// Whether the field of this document counts as a reference, according to [`Edge::only_with`].
    pub fn applies(&self, document: &Value) -> bool {
        self.only_with.is_none_or(|path| document[path] == true || !texts(document, path).is_empty())
    }
}

/// How a parent treats its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It creates and deletes its members as needed: while it lives, the end of a member is not reported.
    ManagesMembers,
    /// Its parts belong to it, and end with it.
    Contains,
}

/// The parent of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A resource of a scanned type, whether it was ever seen or not.
    Known {
        /// The key of the parent.
        key: ResourceKey,
        /// How it treats the resource.
        role: Role,
    },
    /// A parent that is no scanned resource (a fleet, a lifecycle policy, a service of the provider) and that creates
    /// and deletes its members.
    Unseen,
}

/// Since when a resource is unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinceSource {
    /// Since its own document shows it, according to its versions.
    ReportedByCloud,
    /// Since nothing references it: from the end of the last resource that did, otherwise from when it was first
    /// noticed.
    LastReference,
}

/// What a resource is billed for.
#[derive(Clone, Copy, Debug)]
pub enum Billing {
    /// The resource itself, according to [`TypeFacts::usage`].
    Itself,
    /// Other resources, each as its type and id.
    Parts(fn(&Value) -> Vec<(&'static str, String)>),
}

/// One way in which a resource can be unused.
#[derive(Debug)]
pub struct OrphanCase {
    /// The type that it is about.
    pub resource_type: &'static str,
    /// Whether its own document leaves open that it is unused.
    pub is_open: fn(&Value) -> bool,
    /// The types that must not reference it, in the same account and region.
    pub referring_types: &'static [&'static str],
    /// The severity of its findings.
    pub severity: Severity,
    /// A few words on what is wrong.
    pub verdict: &'static str,
    /// What shows that it is unused, as the message and the evidence state it.
    pub reported: &'static str,
    /// What to check before anything is deleted, and what to do then.
    pub advice: &'static str,
    /// Fields of its document that help a person to identify it.
    pub shows: &'static [&'static str],
    /// Where the time since when it is unused comes from.
    pub since_source: SinceSource,
    /// What its cost is made of.
    pub billing: Billing,
    /// It is only reported after `spec.orphans.stoppedFor`.
    pub is_stopped: bool,
    /// The resource that it was created from, and that it serves while that one lives: its type and id.
    pub origin: Option<fn(&Value) -> Option<(&'static str, String)>>,
    /// Prefixes of the tag keys of tools that keep it on purpose.
    pub kept_by: &'static [&'static str],
    /// For a resource that Kubernetes created for a claim.
    pub claim: Option<Claim>,
}

/// How a Kubernetes claim for a volume is recognised, and what to do about its volume.
#[derive(Debug)]
pub struct Claim {
    /// Prefixes of the tag keys that the cluster's storage driver sets.
    pub driver_tags: &'static [&'static str],
    /// What to do about such a volume, in place of [`OrphanCase::advice`].
    pub advice: &'static str,
}

/// The monthly billing units of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// The item in the price list: `ebs.gp3`.
    pub item: Cow<'static, str>,
    /// GB, or 1 if hours are billed.
    pub quantity: f64,
}

/// References to numbered versions of a template.
#[derive(Clone, Copy, Debug)]
pub struct Pins {
    /// The type of the template.
    pub to: &'static str,
    /// The id of each template, with the version.
    pub of: fn(&Value) -> Vec<(String, i64)>,
}

/// The field of a described object in which the provider returns the tags.
#[derive(Clone, Copy, Debug)]
pub struct TagField {
    /// The name of the field, at the top level of the described object.
    pub name: &'static str,
    /// How the field contains the tags.
    pub form: TagForm,
}

/// The form in which a provider returns the tags of a resource.
#[derive(Clone, Copy, Debug)]
pub enum TagForm {
    /// An object with a field for each tag.
    Map,
    /// A list of objects with these two fields.
    List {
        /// The name of the field with the key of the tag.
        key: &'static str,
        /// The name of the field with its value.
        value: &'static str,
    },
}

/// What the rules and queries know of one resource type.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts about a type
pub struct TypeFacts {
    /// The name of the type, as in [`ResourceKey::resource_type`].
    pub name: &'static str,
    /// Where described objects contain their tags; `None` if they contain none.
    pub tag_field: Option<TagField>,
    /// Ids are unique across all accounts and regions.
    pub has_unique_ids: bool,
    /// Its end can be confirmed by a read by id, not only by further sweeps.
    pub has_read_by_id: bool,
    /// The references in its documents.
    pub edges: Vec<&'static Edge>,
    /// Other resources are part of it, created from it or billed with it, so that rules read it by key.
    pub is_read_by_key: bool,
    /// It has so many parts that their ends are reported together while it lives.
    pub has_many_parts: bool,
    /// The parent according to the document.
    pub parent: Option<fn(&ResourceKey, &Value) -> Option<Parent>>,
    /// How a resource of the type can be unused; `None` if the rule `Orphaned` does not apply to it.
    pub orphan: Option<&'static OrphanCase>,
    /// What a document shows that the resource is billed for. `None` if the type has no item in price lists; the
    /// function returns `None` for a resource that costs nothing, or whose item is unknown.
    pub usage: Option<fn(&Value) -> Option<Usage>>,
    /// Fields that an additional call reads, and that rules depend on. If one is missing the call was denied, and the
    /// content of the field is unknown.
    pub extra_fields: &'static [&'static str],
    /// Whether a document references others in a way that can't be followed.
    pub is_opaque: Option<fn(&Value) -> bool>,
    /// The template versions that a document of the type references by number; `None` if it can't reference any.
    pub pins: Option<Pins>,
    /// The versions that the document of a template contains.
    pub versions: Option<fn(&Value) -> Vec<i64>>,
    /// How to recover a resource that was lost by mistake.
    pub recovery_advice: &'static str,
    /// The name in an id that is longer than a person would call it.
    pub short_name: Option<fn(&str) -> &str>,
}

impl TypeFacts {
    /// Whether the rules use anything in the documents.
    pub fn is_read(&self) -> bool {
        !self.edges.is_empty() || self.orphan.is_some() || self.parent.is_some()
    }

    /// Whether the document could not be read, or not completely.
    pub fn is_unread(&self, document: &Value) -> bool {
        document.as_object().is_none_or(serde_json::Map::is_empty)
            || self.extra_fields.iter().any(|field| document.get(*field).is_none())
    }

    /// All references in a document, each with the id of the referenced resource.
    pub fn references(&self, document: &Value) -> Vec<(&'static Edge, String)> {
        let of = |edge: &'static Edge| texts(document, edge.path).into_iter().map(move |id| (edge, id));
        self.edges.iter().copied().flat_map(of).collect()
    }
}

/// What the rules and queries know of one provider.
#[derive(Debug)]
pub struct ProviderFacts {
    /// The first part of each of its keys.
    pub provider: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Its types by name, including types that only others reference.
    pub types: HashMap<&'static str, TypeFacts>,
    /// The parent according to the tags, the most specific first.
    pub parent_in_tags: fn(&ResourceKey, &TagSet) -> Option<Parent>,
    /// The resource whose tags a source of ownership names, if the source is about another resource.
    pub owning_resource: fn(OwnerSource, &ResourceKey, &TagSet) -> Option<ResourceKey>,
    /// Whether a tag key is set by infrastructure as code, by a controller or by a service of the provider.
    pub is_managed_tag: fn(&str) -> bool,
    /// The account that a document names as the owner.
    pub owner_account: fn(&Value) -> Option<&str>,
}

/// What is known of all providers. The default knows none: rules then read nothing from documents.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    providers: Arc<[ProviderFacts]>,
}

/// A described object as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The object, with its tags in the field in which the provider returns them.
    pub attributes: Value,
    /// The account that owns it; `None` if that is the account that lists it.
    pub shared_by: Option<String>,
}

impl Facts {
    /// The facts of some providers, no two of which have the same name.
    pub fn of(providers: impl IntoIterator<Item = ProviderFacts>) -> Self {
        Self { providers: providers.into_iter().collect() }
    }

    /// What is known of the provider of a resource; `None` if it is not among them.
    pub fn provider(&self, key: &ResourceKey) -> Option<&ProviderFacts> {
        self.providers.iter().find(|facts| *facts.provider == *key.provider)
    }

    /// What is known of the type of a resource.
    pub fn of_type(&self, key: &ResourceKey) -> Option<&TypeFacts> {
        self.provider(key)?.types.get(key.resource_type.as_str())
    }

    /// The types of the provider of a resource whose documents can reference its type.
    pub fn referring_types(&self, key: &ResourceKey) -> Vec<&TypeFacts> {
        let types = self.provider(key).map(|facts| facts.types.values()).into_iter().flatten();
        let refers = |facts: &&TypeFacts| facts.edges.iter().any(|edge| edge.to == key.resource_type.as_str());
        let mut referring: Vec<&TypeFacts> = types.filter(refers).collect();
        referring.sort_by_key(|facts| facts.name);
        referring
    }

    /// The account that owns a described object, if it is not the account that lists it: the object is shared, or both
    /// accounts take part in it. Its tags are not visible here, and acting on it is up to the owner.
    pub fn shared_by<'a>(&self, key: &ResourceKey, document: &'a Value) -> Option<&'a str> {
        let owner = (self.provider(key)?.owner_account)(document)?;
        (owner != key.account.as_str()).then_some(owner)
    }

    /// A described object as it is shown: with its tags, and with the account that shares it.
    pub fn described(&self, resource: &Resource, mut attributes: Value) -> Described {
        let shared_by = self.shared_by(&resource.key, &attributes).map(str::to_owned);
        self.show_tags(&mut attributes, resource);
        Described { attributes, shared_by }
    }

    /// Puts the tags, which are stored separately, into the field in which the provider returns them.
    pub fn show_tags(&self, document: &mut Value, resource: &Resource) {
        let Some(TagField { name, form }) = self.of_type(&resource.key).and_then(|facts| facts.tag_field) else {
            return;
        };
        let Some(tags) = resource.tags.known().filter(|tags| !tags.is_empty()) else { return };
        let value = match form {
            TagForm::Map => tags.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect(),
            TagForm::List { key, value } => tags.iter().map(|(k, v)| json!({ key: k, value: v })).collect(),
        };
        if let Value::Object(fields) = document {
            fields.insert(name.to_owned(), value);
        }
    }
}

impl ResourceKey {
    /// Another resource of the same account and region.
    #[must_use]
    pub fn sibling(&self, resource_type: &str, id: &str) -> Self {
        ResourceKey { resource_type: ResourceType::new(resource_type), id: id.into(), ..self.clone() }
    }
}
