//! What a resource type is: declared once, here and in its service's file.

use futures::future::BoxFuture;
use serde_json::Value;

use super::Regional;
use super::error::Failure;
use crate::cloud::{CadenceClass, TypeInfo};
use crate::inventory::{Confirmation, IdReuse};

/// What a call asks for: a page of all, or one id.
#[derive(Clone, Debug)]
pub(super) enum Which {
    Page(Option<String>),
    Id(String),
}

/// The converted answer of one call.
pub(super) type Answer<'a> = BoxFuture<'a, Result<Value, Failure>>;

/// Where the tags of a type are.
#[derive(Clone, Copy)]
pub(super) enum TagSource {
    /// In the listing, under this field.
    Inline(&'static str),
    /// In an answer of their own, for one object at a time.
    Call(for<'a> fn(&'a Regional, &'a Value) -> BoxFuture<'a, Result<crate::inventory::TagSet, Failure>>),
}

pub(super) struct Declaration {
    pub name: &'static str,
    pub actions: &'static [&'static str],
    pub fetch: for<'a> fn(&'a Regional, Which) -> Answer<'a>,
    /// The path of the list in the answer; each step but the last is a list too.
    pub items: &'static [&'static str],
    pub next_page: &'static str,
    pub id: &'static str,
    pub tags: TagSource,
    /// The field that says when it was made.
    pub birth: Option<&'static str>,
    pub reusable_ids: bool,
    pub global: bool,
    /// The path of its state, and the states that end a life.
    pub end_states: Option<(&'static str, &'static [&'static str])>,
    /// Fields that change by themselves and say nothing: not kept.
    pub volatile: &'static [&'static str],
    pub shape: u16,
    pub cadence: CadenceClass,
    /// Fields that the listing lacks, added from a further call.
    pub enrich: Option<for<'a> fn(&'a Regional, &'a mut Value) -> BoxFuture<'a, Result<(), Failure>>>,
}

impl Declaration {
    /// What most of EC2 has in common; each type says how it differs.
    pub const EC2: Declaration = Declaration {
        name: "",
        actions: &[],
        fetch: |_, _| Box::pin(async { unreachable!("every type declares its call") }),
        items: &[],
        next_page: "NextToken",
        id: "",
        tags: TagSource::Inline("Tags"),
        birth: None,
        reusable_ids: false,
        global: false,
        end_states: None,
        volatile: &[],
        shape: 1,
        cadence: CadenceClass::Fast,
        enrich: None,
    };

    pub fn info(&self) -> TypeInfo {
        TypeInfo {
            name: self.name,
            global: self.global,
            ids: if self.reusable_ids { IdReuse::Reusable } else { IdReuse::Unique },
            // Every type so far can be asked for by id.
            confirmation: Confirmation::ReadById,
            shape: self.shape,
            cadence: self.cadence,
            actions: self.actions,
            verify_tag_loss: matches!(self.tags, TagSource::Inline(_)),
        }
    }
}

/// The objects of an answer: `["Reservations", "Instances"]` flattens two lists.
pub(super) fn items(answer: &mut Value, path: &[&str]) -> Vec<Value> {
    let mut level = vec![answer.take()];
    for step in path {
        level = level
            .into_iter()
            .flat_map(|mut value| match value.get_mut(*step).map(Value::take) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            })
            .collect();
    }
    level
}

pub(super) fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, step| value.get(step))
}
