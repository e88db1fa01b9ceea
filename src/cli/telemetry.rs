//! The operator's telemetry: a log for people and machines on standard error, and traces by OTLP if they are
//! configured.

use anyhow::Context;
use clap::ValueEnum;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends the remaining traces when it is dropped.
pub(super) struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    Json,
    Text,
}

/// `endpoint` is the base of an OTLP receiver over HTTP: traces go to `/v1/traces` below it.
pub(super) fn start(format: LogFormat, filter: &str, endpoint: Option<&str>) -> anyhow::Result<Telemetry> {
    let filter = || EnvFilter::try_new(filter).context("--log");
    // Spans are for traces: an event is complete without them.
    #[allow(clippy::redundant_closure_for_method_calls)] // The method itself is not general enough.
    let events = filter()?.and(filter_fn(|metadata| metadata.is_event()));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Json => log.json().flatten_event(true).boxed(),
        LogFormat::Text => log.boxed(),
    };
    let traces = endpoint.map(provider).transpose()?;
    let tracer = traces.as_ref().map(|traces| traces.tracer("elava"));
    let spans = match tracer {
        Some(tracer) => Some(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(filter()?)),
        None => None,
    };
    tracing_subscriber::registry().with(log.with_filter(events)).with(spans).init();
    Ok(Telemetry(traces))
}

fn provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder().with_http().with_endpoint(&url).build();
    let exporter = exporter.with_context(|| format!("--otlp-endpoint: traces can't be sent to {url}"))?;
    let resource = Resource::builder()
        .with_service_name("elava")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
