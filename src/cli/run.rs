//! `elava run`: the operator.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::care::{self, KeepArgs};
use super::clouds;
use super::telemetry::{self, LogFormat};
use crate::cloud::{CallCounts, Providers};
use crate::controller::{self, Allowed, Identity, NamespaceLimits, RoleGrant, Settings};
use crate::inventory::Facts;
use crate::policy::Prices;
use crate::scanner::Fleet;
use crate::server;
use crate::server::aggregated::Service;
use crate::server::backups::Backups;
use crate::server::metrics::{Others, single};
use crate::store::{Store, socket_path, system_clock};

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The store's file, on a persistent volume; its socket is created beside it
    #[arg(long, env = "ELAVA_STORE", default_value = "/var/lib/elava/elava.redb")]
    store: PathBuf,
    /// Address on which /livez, /readyz and /metrics are served
    #[arg(long, env = "ELAVA_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Address on which only /livez and /readyz are served, for a kubelet; without it there is none
    #[arg(long, env = "ELAVA_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
    /// Address on which inventory.elava.dev is served to the API server; without it, it is not served
    #[arg(long, env = "ELAVA_QUERY_API_LISTEN", value_name = "ADDRESS")]
    query_api_listen: Option<SocketAddr>,
    /// The Service under which the API server reaches it, as NAMESPACE:NAME
    #[arg(long, env = "ELAVA_QUERY_API_SERVICE", default_value = "elava:elava-query", value_parser = service)]
    query_api_service: Service,
    /// An endpoint that a CloudScan may name instead of AWS's own; may be repeated
    #[arg(long, env = "ELAVA_ALLOW_ENDPOINT", value_delimiter = ',', value_name = "URL")]
    allow_endpoint: Vec<String>,
    /// Allow the CloudScans of a namespace to use the operator's own credentials for a role: NAMESPACE=ROLE, where ROLE
    /// is an ARN, the beginning of one with * at its end, arn:aws:iam::*:role/NAME for every account, or own for the
    /// credentials as they are; the namespace * stands for every namespace. May be repeated; without it a CloudScan
    /// needs credentials of its own
    // The name of a role may contain a comma.
    #[arg(long, env = "ELAVA_ALLOW_ROLE", value_delimiter = ' ', value_name = "NAMESPACE=ROLE")]
    allow_role: Vec<RoleGrant>,
    /// A URL that a CloudScan's webhook may have, or begin with; may be repeated
    #[arg(long, env = "ELAVA_ALLOW_WEBHOOK", value_delimiter = ',', value_name = "URL")]
    allow_webhook: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// A price list to estimate costs from, in the format of docs/prices.md; without one, the few list prices that ship
    #[arg(long, env = "ELAVA_PRICES", value_name = "FILE")]
    prices: Option<PathBuf>,
    /// A namespace whose CloudScans are reconciled; may be repeated. Without one, those of all namespaces are
    #[arg(long, env = "ELAVA_WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACE")]
    watch_namespace: Vec<String>,
    /// The operator's own ServiceAccount as NAMESPACE:NAME, for messages that explain how to grant it access
    #[arg(long, env = "ELAVA_SERVICE_ACCOUNT", default_value = "elava:elava")]
    service_account: String,
    /// The ClusterRole that allows reading credentials, to be bound in each namespace that contains credentials
    #[arg(long, env = "ELAVA_CREDENTIALS_ROLE", default_value = "elava-credentials")]
    credentials_role: String,
    /// The name of the reporter in events
    #[arg(long, env = "HOSTNAME", default_value = "elava")]
    instance: String,
    /// The share of AWS's API rate limits for an account that is used, from 0.01 to 1; the rest is left to its other
    /// users
    #[arg(long, env = "ELAVA_API_SHARE", default_value = "0.25", value_parser = share)]
    api_share: f64,
    #[command(flatten)]
    keep: KeepArgs,
    /// A folder, on another volume, in which a backup of the store is made every period; without one, none is made
    #[arg(long, env = "ELAVA_BACKUP_DIR", value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// How long after a backup the next one is made
    #[arg(long, env = "ELAVA_BACKUP_EVERY", default_value = "24h", value_parser = humantime::parse_duration)]
    backup_every: Duration,
    /// How many backups are kept; the oldest are removed
    #[arg(long, env = "ELAVA_BACKUP_KEEP", default_value = "7", value_parser = clap::value_parser!(u16).range(1..))]
    backup_keep: u16,
    #[arg(long, env = "ELAVA_LOG_FORMAT", value_enum, default_value = "json")]
    log_format: LogFormat,
    /// What is logged, as tracing filter directives (the default omits what the SDK logs about refused roles, and what
    /// the client logs about each call to an unavailable API server: conditions and the operator's own log report both)
    #[arg(long, env = "ELAVA_LOG", default_value = "info,aws_config=error,kube_client=off")]
    log: String,
    /// The OTLP over HTTP receiver that traces are sent to, such as http://otel-collector:4318; without it, none are
    /// sent
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// Limits of one namespace, so that no namespace uses up what all share.
#[derive(Clone, Debug, Args)]
struct LimitArgs {
    /// The shortest interval between listings; a CloudScan that requests a shorter one gets this one, and its requested
    /// scans are no more frequent either
    #[arg(long, env = "ELAVA_MIN_INTERVAL", default_value = "1m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    min_interval: Duration,
    /// Maximum number of CloudScans of a namespace; younger ones are refused
    #[arg(long, env = "ELAVA_NAMESPACE_CLOUDSCANS", default_value = "500", value_name = "COUNT")]
    namespace_cloudscans: usize,
    /// Maximum number of accounts that the CloudScans of a namespace may name; younger CloudScans beyond it are refused
    #[arg(long, env = "ELAVA_NAMESPACE_ACCOUNTS", default_value = "2000", value_name = "COUNT")]
    namespace_accounts: usize,
    /// Maximum number of resources that the CloudScans of a namespace may record; CloudScans beyond it are refused
    /// until they are edited
    #[arg(long, env = "ELAVA_NAMESPACE_RESOURCES", default_value = "1000000", value_name = "COUNT")]
    namespace_resources: usize,
    /// Maximum number of findings of a namespace that are open as objects at once; others are counted in status
    #[arg(long, env = "ELAVA_NAMESPACE_OPEN_FINDINGS", default_value = "50000", value_name = "COUNT")]
    namespace_open_findings: usize,
    /// Maximum number of events of a namespace that wait for the receivers of its webhooks; newer ones are dropped
    #[arg(long, env = "ELAVA_NAMESPACE_WAITING_EVENTS", default_value = "50000", value_name = "COUNT")]
    namespace_waiting_events: usize,
    /// Maximum number of watches of a namespace that the query API serves at once; more are refused with 429
    #[arg(long, env = "ELAVA_NAMESPACE_WATCHES", default_value = "64", value_name = "COUNT")]
    namespace_watches: usize,
}

impl LimitArgs {
    fn of_controller(&self) -> NamespaceLimits {
        NamespaceLimits {
            min_interval: self.min_interval,
            cloud_scans: self.namespace_cloudscans,
            accounts: self.namespace_accounts,
            resources: self.namespace_resources,
            open_findings: self.namespace_open_findings,
            waiting_events: self.namespace_waiting_events,
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.01..=1.0).contains(share));
    share.ok_or_else(|| "a share lies between 0.01 and 1, such as 0.25".to_owned())
}

/// Serves until the task is dropped; without a listener it serves nothing.
async fn serve_query_api(
    listener: Option<TcpListener>,
    store: Store,
    facts: Facts,
    client: kube::Client,
    service: Service,
    watches_of_one: usize,
) -> std::io::Result<()> {
    let Some(listener) = listener else { return std::future::pending().await };
    tracing::info!(listen = %listener.local_addr()?, "inventory.elava.dev is answered");
    server::aggregated::serve(listener, store, facts, client, service, watches_of_one).await
}

async fn serve_health(listener: Option<TcpListener>, store: Store) -> std::io::Result<()> {
    let Some(listener) = listener else { return std::future::pending().await };
    server::serve_health(listener, store).await
}

async fn bind_listener(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))
}

async fn bind_optional(listen: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match listen {
        None => Ok(None),
        Some(listen) => bind_listener(listen).await.map(Some),
    }
}

fn service(text: &str) -> Result<Service, String> {
    match text.split_once(':') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Service { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("a Service is NAMESPACE:NAME, such as elava:elava-query".to_owned()),
    }
}

/// The metrics besides those of the store.
fn external_metrics(
    fleet: &Arc<Fleet>,
    backups: Option<Arc<Backups>>,
    providers: Providers,
    meters: controller::Meters,
    store: Store,
) -> Others {
    let (fleet_of_metrics, scanning) = (Arc::downgrade(fleet), fleet.meters().clone());
    let accounts = move || fleet_of_metrics.upgrade().map(|fleet| fleet.accounts()).unwrap_or_default();
    let register = move |registry: &mut Registry| {
        scanning.register(registry);
        meters.register(registry);
        let calls = Family::<[(&'static str, &'static str); 3], Counter>::default();
        for ((service, operation), CallCounts { made, throttled, failed }) in providers.calls() {
            let answered = made.saturating_sub(throttled + failed);
            for (outcome, count) in [("answered", answered), ("throttled", throttled), ("failed", failed)] {
                let labels = [("service", service), ("operation", operation), ("outcome", outcome)];
                calls.get_or_create(&labels).inc_by(count);
            }
        }
        registry.register("cloud_calls", "Calls to clouds, each retry one, since the operator started", calls);
        if let Some(backups) = &backups {
            let outcomes = backups.outcomes();
            let every = i64::try_from(backups.every().as_secs()).unwrap_or(i64::MAX);
            single(registry, "backup_interval_seconds", "How long after a backup the next is made", every);
            let newest = outcomes.newest.map_or(0, |time| time.as_millis() / 1000);
            let when = "When the newest backup was made; 0 where there is none";
            single(registry, "backup_last_success_timestamp_seconds", when, newest);
            let failures = i64::try_from(outcomes.failures).unwrap_or(i64::MAX);
            single(registry, "backup_failures", "Backups that failed since one was made", failures);
        }
        if let Ok(waiting) = controller::notify::all_waiting(&store) {
            let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
            single(registry, "webhook_waiting", "Events that wait for the receivers of webhooks", waiting);
        }
    };
    Others { accounts: Box::new(accounts), register: Box::new(register) }
}

/// Removes from the store what was classified as secret since it was written. A failure does not prevent the start: it
/// is retried at the next one.
fn scrub(path: &Path) {
    match care::scrub(path) {
        Ok(0) => {}
        Ok(documents) => tracing::warn!(
            store = %path.display(),
            "secrets were taken out of {documents} documents of the store; backups of before hold them still"
        ),
        Err(error) => {
            tracing::error!(store = %path.display(), "what is secret could not be taken out of the store: {error}");
        }
    }
}

/// The price list that is named, or the one that ships. Read before anything is opened: an unreadable list prevents the
/// start.
fn prices(path: Option<&Path>) -> anyhow::Result<Prices> {
    let Some(path) = path else { return Ok(Prices::shipped()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Prices::parse(&text).with_context(|| path.display().to_string())
}

pub async fn run(args: Box<RunArgs>) -> anyhow::Result<()> {
    let args = *args;
    let _telemetry =
        telemetry::start(args.log_format, &args.log, args.otlp_endpoint.as_deref().filter(|url| !url.is_empty()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let prices = prices(args.prices.as_deref())?;
    let path = args.store.clone();
    let retention = args.keep.retention()?;
    let store = tokio::task::spawn_blocking(move || {
        scrub(&path);
        Store::open(&path, system_clock())
    })
    .await??;
    store.keep(retention);
    let client = kube::Client::try_default()
        .await
        .context("no way to reach an API server: run in a pod, or set KUBECONFIG")?;
    let listener = bind_listener(args.listen).await?;
    let health = bind_optional(args.health_listen).await?;
    let query_api = bind_optional(args.query_api_listen).await?;
    let socket = socket_path(&args.store);
    let unix =
        server::bind_socket(&socket).with_context(|| format!("cannot make the socket {}", socket.display()))?;
    let providers = clouds::sharing_providers(args.api_share);
    let facts = providers.facts();
    let (fleet, finished) = Fleet::new(providers.clone(), store.clone());
    let endpoints = args.allow_endpoint.iter().map(|url| url.trim_end_matches('/').to_owned());
    let allowed = Allowed::These { endpoints: endpoints.collect(), roles: args.allow_role };
    tracing::info!(
        store = %args.store.display(), revision = store.revision().0, listen = %listener.local_addr()?,
        socket = %socket.display(), "started"
    );

    let backups = args
        .backup_dir
        .map(|folder| Arc::new(Backups::new(folder, args.backup_every, usize::from(args.backup_keep))));
    let meters = controller::Meters::default();
    let external_metrics = external_metrics(&fleet, backups.clone(), providers, meters.clone(), store.clone());
    let http = tokio::spawn(server::serve_http(listener, store.clone(), external_metrics));
    let health = tokio::spawn(serve_health(health, store.clone()));
    let questions = tokio::spawn(server::serve_socket(unix, store.clone(), facts.clone()).into_future());

    let backing_up = backups.map(|backups| tokio::spawn(backups.run(store.clone())));
    let query_api = tokio::spawn(serve_query_api(
        query_api,
        store.clone(),
        facts,
        client.clone(),
        args.query_api_service,
        args.limits.namespace_watches,
    ));

    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
    .shared();
    let identity = Identity {
        service_account: args.service_account,
        credentials_role: args.credentials_role,
        instance: args.instance,
    };
    let settings = Settings {
        allowed,
        limits: args.limits.of_controller(),
        webhooks: args.allow_webhook,
        prices,
        identity,
        namespaces: args.watch_namespace,
        meters,
    };
    let controller = controller::run(client, store.clone(), fleet.clone(), finished, settings, stop);
    tokio::pin!(controller);
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = &mut controller => anyhow::bail!("the controller ended by itself"),
        ended = http => anyhow::bail!("the HTTP server ended: {ended:?}"),
        ended = health => anyhow::bail!("the health server ended: {ended:?}"),
        ended = questions => anyhow::bail!("the socket's server ended: {ended:?}"),
        ended = query_api => anyhow::bail!("the query API's server ended: {ended:?}"),
        () = signalled => {}
    }
    tracing::info!("stopping: scans in flight are given up, what was recorded stays");
    stopping.send_replace(true);
    if let Some(backing_up) = backing_up {
        backing_up.abort();
    }
    // A reconcile in progress finishes its writes; each has its own deadline.
    let _ = tokio::time::timeout(Duration::from_secs(10), controller).await;
    drop(fleet);
    tokio::task::spawn_blocking(move || store.flush()).await??;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}
