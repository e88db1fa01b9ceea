//! The columns that `kubectl get` shows.

use serde::Serialize;
use serde_json::{Value, json};

use super::objects::{CloudResourceStatus, Object, ResourceChangeStatus, ResourceHistoryStatus, presence};
use crate::inventory::Timestamp;

/// A column: name, type, format, whether only `-o wide` shows it, description.
type Column = (&'static str, &'static str, &'static str, bool, &'static str);

/// Objects that can be shown as rows.
pub(super) trait Rows: Serialize {
    const COLUMNS: &'static [Column];

    /// One row for most kinds; a history has one for each change.
    fn rows(&self) -> Vec<Vec<Value>>;
}

pub(super) fn columns(columns: &[Column]) -> Value {
    let column = |(name, kind, format, is_wide, description): &Column| {
        json!({
            "name": name, "type": kind, "format": format, "description": description,
            "priority": i32::from(*is_wide),
        })
    };
    columns.iter().map(column).collect()
}

impl Rows for Object<CloudResourceStatus> {
    const COLUMNS: &'static [Column] = &[
        ("Name", "string", "name", false, "The type, the id, and a hash of the key"),
        ("Named", "string", "", false, "The value of its Name tag"),
        ("Owner", "string", "", false, "Whom its tags name as the owner"),
        ("Account", "string", "", false, "The account that holds it"),
        ("Region", "string", "", false, "The region that holds it"),
        ("State", "string", "", false, "Present, or Unknown where the last sweeps are missing or failed"),
        ("Seen", "string", "", false, "How long ago it was first seen"),
        ("Type", "string", "", true, "Its resource type"),
        ("ID", "string", "", true, "Its own id"),
        ("Changed", "integer", "", true, "The revision of its last change"),
        ("Tags", "string", "", true, "Its tags"),
    ];

    fn rows(&self) -> Vec<Vec<Value>> {
        let status = &self.status;
        let tags = match &status.tags {
            Some(tags) => tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
            None => format!("<{}>", status.tag_state.to_lowercase()),
        };
        vec![vec![
            json!(self.metadata.name),
            json!(status.name.as_deref().unwrap_or_default()),
            json!(status.owner.as_deref().unwrap_or_default()),
            json!(status.subject.account),
            json!(status.subject.region),
            json!(state(status)),
            json!(age(status.first_seen, jiff::Timestamp::now().into())),
            json!(status.subject.resource_type),
            json!(status.subject.id),
            json!(status.changed),
            json!(tags),
        ]]
    }
}

/// Ages in kubectl's format: two units where one is too imprecise.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(since).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |whole: u64, unit: &str, rest: u64, smaller: &str| match rest {
        0 => format!("{whole}{unit}"),
        rest => format!("{whole}{unit}{rest}{smaller}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The state, with the reason if it is unknown.
fn state(status: &CloudResourceStatus) -> String {
    match &status.suspect {
        Some(suspect) if suspect.held => "Unknown (missing, held)".to_owned(),
        Some(_) => "Unknown (missing)".to_owned(),
        None => presence(status.state).to_owned(),
    }
}

impl Rows for Object<ResourceChangeStatus> {
    const COLUMNS: &'static [Column] = &[
        ("Revision", "integer", "", false, "The revision in which it was concluded: asOf=REVISION"),
        ("Time", "string", "date-time", false, "When that was"),
        ("Change", "string", "", false, "Appeared, Changed or Disappeared"),
        ("Type", "string", "", false, "The type of the resource"),
        ("ID", "string", "", false, "The resource's own id"),
        ("What", "string", "", false, "What happened"),
        ("Account", "string", "", true, "The account that holds it"),
        ("Region", "string", "", true, "The region that holds it"),
        ("Name", "string", "name", true, "The name of this object"),
    ];

    fn rows(&self) -> Vec<Vec<Value>> {
        let status = &self.status;
        let mut row = history_cells(status);
        row.insert(3, json!(status.subject.resource_type));
        row.insert(4, json!(status.subject.id));
        row.extend([json!(status.subject.account), json!(status.subject.region), json!(self.metadata.name)]);
        vec![row]
    }
}

impl Rows for Object<ResourceHistoryStatus> {
    const COLUMNS: &'static [Column] = &[
        ("Revision", "integer", "", false, "The revision in which it was concluded: asOf=REVISION"),
        ("Time", "string", "date-time", false, "When that was"),
        ("Change", "string", "", false, "Appeared, Changed or Disappeared"),
        ("What", "string", "", false, "What happened"),
    ];

    fn rows(&self) -> Vec<Vec<Value>> {
        self.status.changes.iter().map(history_cells).collect()
    }
}

fn history_cells(change: &ResourceChangeStatus) -> Vec<Value> {
    vec![json!(change.revision), json!(change.time), json!(change.change), json!(change.message)]
}

/// The rows of an object, each with the requested part of it.
pub(super) fn rows<S: Serialize>(object: &Object<S>, include: Option<&str>) -> Vec<Value>
where
    Object<S>: Rows,
{
    let own = match include {
        Some("None") => None,
        Some("Object") => Some(json!(object)),
        _ => Some(metadata_only(object)),
    };
    let row = |cells: Vec<Value>| match &own {
        None => json!({"cells": cells}),
        Some(own) => json!({"cells": cells, "object": own}),
    };
    object.rows().into_iter().map(row).collect()
}

pub(super) fn metadata_only<S: Serialize>(object: &Object<S>) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata})
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let since = Timestamp::from_millis(0);
        for (seconds, selection) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (3_600, "60m"),
            (12_000, "3h20m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (94_608_000, "3y"),
        ] {
            assert_eq!(age(since, since.plus(Duration::from_secs(seconds))), selection, "{seconds} s");
        }
    }
}
