//! Queries of a cluster, through its API server and with the user's own rights: `inventory.elava.dev` and the findings,
//! converted to the answers that an operator gives.

use clap::Args;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{FindingState, ResourceFinding};
use crate::inventory::{Change, Diff, End, EndCause, ResourceKey, Revision, ScopeView, Suspect, Tags, Timestamp};
use crate::policy::Owner;
use crate::server::aggregated::{
    CloudResourceStatus, GROUP, ResourceChangeStatus, ResourceHistoryStatus, VERSION,
};
use crate::server::findings::{
    FindingView, FindingsQuery, FindingsResponse, OwnersQuery, OwnersResponse, TreeQuery, TreeResponse,
};
use crate::server::query::{
    API_VERSION, DiffQuery, DiffResponse, HistoryQuery, HistoryResponse, ResourceView, ResourcesQuery,
    ResourcesResponse,
};

/// A cluster, through its API server and with your own rights. `kubectl elava` queries one by default.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Query the cluster, in this namespace
    #[arg(short, long, conflicts_with_all = ["socket"])]
    pub namespace: Option<String>,
    /// Query the cluster, in all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["socket", "namespace"])]
    pub all_namespaces: bool,
    /// Query the cluster of this context of the kubeconfig
    #[arg(long, conflicts_with_all = ["socket"])]
    pub context: Option<String>,
}

/// Objects per answer: a longer list takes several.
const LIST_PAGE_SIZE: u32 = 500;

pub(super) struct Cluster {
    client: Client,
    /// None for all namespaces.
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    kind: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<S> {
    metadata: ListMetadata,
    items: Vec<Item<S>>,
    time: Option<Timestamp>,
    from: Option<Revision>,
    #[serde(default)]
    unknown: Vec<ScopeView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_token: String,
}

#[derive(Deserialize)]
struct Item<S> {
    status: S,
}

fn view_of(status: CloudResourceStatus, has_attributes: bool) -> anyhow::Result<ResourceView> {
    let tags = match (status.tags, status.tag_state.as_str()) {
        (Some(tags), _) => Tags::Known(tags),
        (None, "Untaggable") => Tags::Untaggable,
        (None, _) => Tags::Unknown,
    };
    Ok(ResourceView {
        resource: status.subject.key.parse()?,
        presence: status.state,
        tags,
        first_seen: status.first_seen,
        baseline: status.baseline,
        birth: status.birth,
        changed: status.changed,
        suspect: status.suspect.map(|suspect| Suspect {
            last_seen: suspect.last_seen,
            first_missed: suspect.first_missed,
            misses: suspect.misses,
            held: suspect.held,
        }),
        end: None,
        shared_by: status.shared_by.filter(|_| has_attributes),
        attributes: status.attributes.filter(|_| has_attributes),
    })
}

fn change_of(status: ResourceChangeStatus) -> anyhow::Result<Change> {
    let end = match status.end {
        None => None,
        Some(end) => Some(End {
            cause: match (end.cause.as_str(), end.detail) {
                ("Listed", state) => EndCause::Listed(state.unwrap_or_default()),
                ("Replaced", _) => EndCause::Replaced,
                ("Moved", Some(to)) => EndCause::Moved(to.parse()?),
                _ => EndCause::Absent,
            },
            last_seen: end.last_seen,
            first_missed: end.first_missed,
            concluded: end.concluded,
            revision: status.revision,
        }),
    };
    Ok(Change {
        baseline: status.baseline,
        replaced: status.replaced,
        moved: status.moved,
        moved_from: status.moved_from.map(|key| key.parse()).transpose()?,
        retracted: status.retracted,
        end,
        fields: status.fields,
        ..Change::new(status.change, status.subject.key.parse()?, status.revision, status.time)
    })
}

/// A term of a field selector, with special characters escaped.
fn term(key: &str, value: &str) -> String {
    let value = value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
    format!("{key}={value}")
}

fn named(name: &str) -> String {
    // A bare id contains no type.
    let is_key = name.parse::<ResourceKey>().is_ok();
    term(if is_key { "key" } else { "id" }, name)
}

impl Cluster {
    pub async fn connect(args: &ClusterArgs) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&args.context, Kubeconfig::read()) {
            (_, Ok(kubeconfig)) => Config::from_custom_kubeconfig(kubeconfig, &options).await?,
            (Some(_), Err(error)) => return Err(error.into()),
            // In a pod.
            (None, Err(_)) => Config::infer().await?,
        };
        let own = config.default_namespace.clone();
        let namespace = (!args.all_namespaces).then(|| args.namespace.clone().unwrap_or(own));
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    /// The path of a kind of objects.
    fn path(&self, plural: &str) -> String {
        match &self.namespace {
            None => format!("/apis/{GROUP}/{VERSION}/{plural}"),
            Some(namespace) => format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{plural}"),
        }
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<T> {
        let query = serde_urlencoded::to_string(query)?;
        let request = http_request(&format!("{path}?{query}"))?;
        let answer = self.client.send(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        // An error is a Status with a message, or a line of text.
        let refused = match serde_json::from_slice::<Named>(&body) {
            Ok(Named { kind: Some(kind), message }) if kind == "Status" => message.unwrap_or_default(),
            Ok(_) => return Ok(serde_json::from_slice(&body)?),
            Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        // The API server's answers for a group, or a kind of it, that is not served.
        let is_not_served =
            refused == "404 page not found" || refused == "the server could not find the requested resource";
        anyhow::ensure!(
            !is_not_served,
            "the cluster does not serve {GROUP}: install the chart with queryAPI.enabled=true, or ask the operator \
             itself: kubectl exec -n elava elava-0 -- elava ..."
        );
        anyhow::bail!("{refused}")
    }

    /// A complete list, in as many pages as it takes.
    async fn list<S: serde::de::DeserializeOwned>(
        &self,
        plural: &str,
        terms: &[String],
    ) -> anyhow::Result<List<S>> {
        let query = |continue_token: &str| {
            let mut query = vec![("fieldSelector", terms.join(",")), ("limit", LIST_PAGE_SIZE.to_string())];
            if !continue_token.is_empty() {
                query.push(("continue", continue_token.to_owned()));
            }
            query
        };
        let path = self.path(plural);
        let mut whole: List<S> = self.get(&path, &query("")).await?;
        while !whole.metadata.continue_token.is_empty() {
            let next: List<S> = self.get(&path, &query(&whole.metadata.continue_token)).await?;
            whole.items.extend(next.items);
            whole.metadata.continue_token = next.metadata.continue_token;
        }
        Ok(whole)
    }

    pub async fn resources(&self, question: &ResourcesQuery) -> anyhow::Result<ResourcesResponse> {
        anyhow::ensure!(
            !question.hindsight && !question.ended,
            "--hindsight and --ended ask the operator itself: kubectl exec -n elava elava-0 -- elava ..."
        );
        let mut terms = Vec::new();
        let mut add =
            |key: &str, value: &Option<String>| terms.extend(value.as_ref().map(|value| term(key, value)));
        add("asOf", &question.at);
        add("account", &question.account);
        add("region", &question.region);
        add("type", &question.resource_type);
        let tags: Vec<String> = match &question.tags {
            None => Vec::new(),
            Some(text) => serde_json::from_str(text)?,
        };
        terms.extend(tags.iter().map(|tag| match tag.split_once('=') {
            Some((key, value)) => term(&format!("tag.{key}"), value),
            None => term("tag", tag),
        }));
        terms.extend(question.untagged.then(|| term("untagged", "true")));
        terms.extend(question.key.as_deref().map(named));
        let list: List<CloudResourceStatus> = self.list("cloudresources", &terms).await?;
        let views = list.items.into_iter().map(|item| view_of(item.status, question.attributes));
        let mut resources: Vec<ResourceView> = views.collect::<Result<_, _>>()?;
        resources.sort_by(|a, b| a.resource.cmp(&b.resource));
        // Several namespaces may see the same resource.
        resources.dedup_by(|a, b| a.resource == b.resource);
        if let Some(name) = &question.key {
            one(name, resources.iter().map(|view| &view.resource))?;
        }
        Ok(ResourcesResponse {
            api_version: API_VERSION.to_owned(),
            revision: Revision(list.metadata.resource_version.parse()?),
            time: list.time.unwrap_or_default(),
            resources,
            unknown: list.unknown,
        })
    }

    /// An answer that is not an object.
    async fn report<A: serde::de::DeserializeOwned>(
        &self,
        name: &str,
        question: &impl serde::Serialize,
    ) -> anyhow::Result<A> {
        let query = serde_urlencoded::to_string(question)?;
        let query: Vec<(String, String)> = serde_urlencoded::from_str(&query)?;
        let query: Vec<(&str, String)> = query.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        self.get(&format!("{}/{name}", self.path("reports")), &query).await
    }

    pub async fn owners(&self, question: &OwnersQuery) -> anyhow::Result<OwnersResponse> {
        self.report("owners", question).await
    }

    pub async fn tree(&self, question: &TreeQuery) -> anyhow::Result<TreeResponse> {
        self.report("tree", question).await
    }

    pub async fn history(&self, question: &HistoryQuery) -> anyhow::Result<HistoryResponse> {
        let list: List<ResourceHistoryStatus> = self.list("resourcehistories", &[named(&question.key)]).await?;
        let keys: Vec<ResourceKey> =
            list.items.iter().map(|item| item.status.key.parse()).collect::<Result<_, _>>()?;
        let resource = one(&question.key, keys.iter())?.clone();
        let history = list.items.into_iter().next().map(|item| item.status);
        let history = history.ok_or_else(|| anyhow::anyhow!("the answer holds no history"))?;
        Ok(HistoryResponse {
            api_version: API_VERSION.to_owned(),
            revision: Revision(list.metadata.resource_version.parse()?),
            resource,
            presence: history.state,
            changes: history.changes.into_iter().map(change_of).collect::<Result<_, _>>()?,
        })
    }

    pub async fn diff(&self, question: &DiffQuery) -> anyhow::Result<DiffResponse> {
        let mut terms = vec![term("from", &question.from), term("to", &question.to)];
        if !question.steps {
            terms.push(term("net", "true"));
        }
        let list: List<ResourceChangeStatus> = self.list("resourcechanges", &terms).await?;
        let changes = list.items.into_iter().map(|item| change_of(item.status)).collect::<Result<_, _>>()?;
        let diff = Diff {
            from: list.from.unwrap_or_default(),
            to: Revision(list.metadata.resource_version.parse()?),
            changes,
            unknown: list.unknown,
        };
        Ok(DiffResponse { api_version: API_VERSION.to_owned(), diff })
    }

    /// Only findings that exist as objects: those over a CloudScan's cap are in the store alone.
    pub async fn findings(&self, question: &FindingsQuery) -> anyhow::Result<FindingsResponse> {
        let api: Api<ResourceFinding> = match &self.namespace {
            None => Api::all(self.client.clone()),
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
        };
        let mut findings = Vec::new();
        for finding in api.list(&kube::api::ListParams::default()).await?.items {
            let namespace = finding.metadata.namespace.unwrap_or_default();
            let owner = finding.metadata.owner_references.into_iter().flatten().next();
            let cloudscan = format!("{namespace}/{}", owner.map(|owner| owner.name).unwrap_or_default());
            let Some(status) = finding.status else { continue };
            let is_open = matches!(status.state, FindingState::Open | FindingState::Acknowledged);
            let is_requested = |requested: &Option<String>, value: &str| {
                requested.as_deref().is_none_or(|requested| requested == value)
            };
            let owned_by = status.owner.as_ref().map_or("", |owner| owner.name.as_str());
            // The object that stands for the rest names no resource.
            let (Ok(kind), Ok(resource)) = (status.kind.parse(), status.resource.parse()) else { continue };
            let view = FindingView {
                cloudscan,
                kind,
                severity: serde_json::from_value(status.severity.clone().into())?,
                state: format!("{:?}", status.state),
                resolution: status.resolution.clone(),
                published: true,
                resource,
                name: status.resource_name.clone(),
                owner: match &status.owner {
                    None => None,
                    Some(owner) => Some(Owner {
                        name: owner.name.clone(),
                        source: serde_json::from_value(owner.source.clone().into())?,
                    }),
                },
                since: status.since.time,
                message: status.message.clone(),
                advice: status.advice.clone(),
                evidence: status.evidence.clone(),
                monthly_cost: status.monthly_cost.as_deref().and_then(|cost| cost.parse().ok()),
                cost_so_far: None,
                currency: status.currency.clone(),
            };
            if (question.all || is_open)
                && is_requested(&question.cloudscan, &view.cloudscan)
                && is_requested(&question.kind, &status.kind)
                && is_requested(&question.account, &status.account)
                && is_requested(&question.owner, owned_by)
            {
                findings.push(view);
            }
        }
        findings.sort_by_key(|f| (std::cmp::Reverse((f.severity, f.since)), f.resource.clone(), f.kind));
        Ok(FindingsResponse { api_version: API_VERSION.to_owned(), time: jiff::Timestamp::now().into(), findings })
    }

    /// Reports every change after a revision, as it is recorded; without one, from now on. Returns the last revision
    /// that was reported.
    pub async fn watch(
        &self,
        after: Option<Revision>,
        on_change: &mut dyn FnMut(&Change) -> anyhow::Result<()>,
    ) -> anyhow::Result<Revision> {
        use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
        let after = if let Some(after) = after {
            after
        } else {
            let query = [("fieldSelector", "from=now".to_owned()), ("limit", "1".to_owned())];
            let now: List<ResourceChangeStatus> = self.get(&self.path("resourcechanges"), &query).await?;
            Revision(now.metadata.resource_version.parse()?)
        };
        let query = serde_urlencoded::to_string([("watch", "true"), ("resourceVersion", &after.to_string())])?;
        let request = http_request(&format!("{}?{query}", self.path("resourcechanges")))?;
        let answer = self.client.send(request).await?;
        let status = answer.status();
        let stream = answer.into_body().into_data_stream().map_err(std::io::Error::other);
        let mut lines = std::pin::pin!(stream.into_async_read().lines());
        let mut reported = after;
        while let Some(line) = lines.next().await {
            let line = line?;
            let event: Value = serde_json::from_str(&line)?;
            if !status.is_success() || event["type"] == "ERROR" {
                let message = event["object"]["message"].as_str().or(event["message"].as_str());
                anyhow::bail!("{}", message.unwrap_or("the watch was refused"));
            }
            if event["type"] == "ADDED" {
                let change = change_of(Item::<ResourceChangeStatus>::deserialize(&event["object"])?.status)?;
                on_change(&change)?;
                reported = change.revision;
            }
        }
        Ok(reported)
    }
}

fn http_request(path: &str) -> anyhow::Result<hyper::Request<Body>> {
    Ok(hyper::Request::get(path).header(hyper::header::ACCEPT, "application/json").body(Body::empty())?)
}

/// The one resource that a name identifies.
fn one<'a>(name: &str, mut found: impl Iterator<Item = &'a ResourceKey>) -> anyhow::Result<&'a ResourceKey> {
    let first = found.next().ok_or_else(|| {
        anyhow::anyhow!(
            "no resource called {name} exists now: elava history {name} shows whether one ever did; elava get lists the existing ones"
        )
    })?;
    let others: Vec<String> = found.filter(|key| *key != first).map(ToString::to_string).collect();
    anyhow::ensure!(
        others.is_empty(),
        "{name} is the name of several resources; name one of\n  {first}\n  {}",
        others.join("\n  ")
    );
    Ok(first)
}
