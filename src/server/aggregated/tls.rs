//! Who may connect, and as which user: the certificates on both sides.
//!
//! The API server's front proxy authenticates with a client certificate, signed by the CA and under a name that the
//! ConfigMap `kube-system/extension-apiserver-authentication` contains. Only then are the headers read that name the
//! user. The serving certificate is created at startup, under a CA of this process alone, and renewed long before it
//! expires; [`super::bundle`] publishes the CA in the APIService.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::serve::Listener;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::access::User;
use super::refusal::Refusal;
use crate::server::listen::Bounded;

/// The CA outlives any process; a restart creates another.
const CA_VALID_DAYS: i64 = 3_650;
const CERTIFICATE_VALID_DAYS: i64 = 90;
/// The age at which the certificate is renewed.
pub(super) const CERTIFICATE_RENEWAL_AGE: Duration = Duration::from_hours(24 * 60);
/// Tolerance for clock differences.
const SKEW: SignedDuration = SignedDuration::from_hours(1);
/// Maximum time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent handshakes; beyond this the oldest is aborted.
const HANDSHAKES_IN_FLIGHT_MAX: usize = 128;
/// The ConfigMap's key with the CA of the front proxy.
const CLIENT_CA: &str = "requestheader-client-ca-file";
/// Connections that wait to be accepted.
const ACCEPTED_CONNECTIONS_BUFFER: usize = 64;

/// The front proxy settings in the API server's ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrontProxy {
    client_ca: String,
    /// If empty, any name that the CA has signed is allowed.
    allowed_names: Vec<String>,
    username_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error(
        "the ConfigMap kube-system/extension-apiserver-authentication has no {0}: the API server runs without aggregation"
    )]
    NoFrontProxy(&'static str),
    #[error("{key} of the ConfigMap kube-system/extension-apiserver-authentication is no JSON list of names")]
    Names { key: &'static str, source: serde_json::Error },
    #[error("the CA of the API server's front proxy can't be used")]
    ClientCa(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no certificate could be made")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FrontProxy {
    pub fn read(config: &ConfigMap) -> Result<Self, TlsError> {
        let data = config.data.as_ref();
        let text = |key: &'static str| data.and_then(|data| data.get(key)).cloned();
        let names = |key: &'static str| -> Result<Vec<String>, TlsError> {
            let Some(text) = text(key) else { return Ok(Vec::new()) };
            serde_json::from_str(&text).map_err(|source| TlsError::Names { key, source })
        };
        let needed = |key: &'static str| {
            let names = names(key)?;
            if names.is_empty() { Err(TlsError::NoFrontProxy(key)) } else { Ok(names) }
        };
        Ok(Self {
            client_ca: text(CLIENT_CA).ok_or(TlsError::NoFrontProxy(CLIENT_CA))?,
            allowed_names: names("requestheader-allowed-names")?,
            username_headers: needed("requestheader-username-headers")?,
            uid_headers: names("requestheader-uid-headers")?,
            group_headers: names("requestheader-group-headers")?,
            extra_prefixes: names("requestheader-extra-headers-prefix")?,
        })
    }

    /// The user of a request: only from a connection whose certificate the CA has signed under an allowed name.
    pub fn user(&self, peer: &Peer, headers: &HeaderMap) -> Result<User, Refusal> {
        let name = peer.common_name.as_deref().ok_or_else(|| {
            Refusal::unauthorized(
                "without the client certificate of the API server's front proxy no request is accepted",
            )
        })?;
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|allowed| allowed == name) {
            let message = format!("the client certificate of '{}' is not the front proxy's", name.escape_debug());
            return Err(Refusal::unauthorized(message));
        }
        let values = |name: &str| -> Vec<String> {
            let values = headers.get_all(name.to_ascii_lowercase()).into_iter();
            values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let first = |names: &[String]| names.iter().flat_map(|name| values(name)).find(|value| !value.is_empty());
        let name = first(&self.username_headers)
            .ok_or_else(|| Refusal::unauthorized("the front proxy did not say who asks"))?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            let prefix = prefix.to_ascii_lowercase();
            for key in headers.keys().filter_map(|key| key.as_str().strip_prefix(&prefix)) {
                extra.insert(decoded(key), values(&format!("{prefix}{key}")));
            }
        }
        Ok(User {
            name,
            uid: first(&self.uid_headers),
            groups: self.group_headers.iter().flat_map(|name| values(name)).collect(),
            extra,
        })
    }
}

/// Decodes a key of an extra value: header names contain it percent-encoded.
fn decoded(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let bytes = key.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = key.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

/// The CA of this process, which signs its certificates.
pub(super) struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
    names: Vec<String>,
}

impl Authority {
    /// For a server with these DNS names.
    pub fn new(names: Vec<String>) -> Result<Self, TlsError> {
        let failed = |error: rcgen::Error| TlsError::Certificate(error.into());
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "elava query API");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        valid_for(&mut params, CA_VALID_DAYS);
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key), names })
    }

    /// A new certificate, and its key.
    fn sign(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let failed = |error: rcgen::Error| TlsError::Certificate(error.into());
        let mut params = CertificateParams::new(self.names.clone()).map_err(failed)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid_for(&mut params, CERTIFICATE_VALID_DAYS);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// The settings of a connection: the serving certificate, and the CA that must have signed the client's. A client
    /// without a certificate may connect, to receive an error.
    pub fn server(&self, proxy: Option<&FrontProxy>) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = match proxy {
            None => Arc::new(NoClientAuth),
            Some(proxy) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(proxy.client_ca.as_bytes()) {
                    let certificate = certificate.map_err(|error| TlsError::ClientCa(Box::new(error)))?;
                    roots.add(certificate).map_err(|error| TlsError::ClientCa(error.into()))?;
                }
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::ClientCa(error.into()))?
            }
        };
        let (certificate, key) = self.sign()?;
        let failed = |error: rustls::Error| TlsError::Certificate(error.into());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(failed)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let day = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let now = Timestamp::now();
    // Whole days: it is valid since yesterday at the latest.
    params.not_before = day(now - SKEW);
    params.not_after = day(now + SignedDuration::from_hours(24 * days));
}

/// The serving settings and the trusted front proxy; replaced while connections are open.
#[derive(Clone)]
pub(super) struct Trust {
    pub server: Arc<ServerConfig>,
    /// None until they are read from the API server.
    pub proxy: Option<Arc<FrontProxy>>,
}

pub(super) type SharedTrust = Arc<RwLock<Trust>>;

pub(super) fn trusted(trust: &SharedTrust) -> Trust {
    trust.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// From its verified certificate; none if it presented none.
    common_name: Option<String>,
}

impl Peer {
    /// Whether the CA of the front proxy has signed its certificate.
    pub fn is_verified(&self) -> bool {
        self.common_name.is_some()
    }

    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let common_name = certificates.and_then(|certificates| common_name(certificates.first()?));
        Self { common_name }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// Connections with a completed handshake. A slow handshake delays no other connection.
pub(super) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, Peer)>,
    accepting: tokio::task::JoinHandle<()>,
}

impl TlsListener {
    pub fn new(listener: TcpListener, trust: SharedTrust) -> Self {
        let (sender, ready) = mpsc::channel(ACCEPTED_CONNECTIONS_BUFFER);
        let accepting = tokio::spawn(async move {
            let mut handshakes = Bounded::to(HANDSHAKES_IN_FLIGHT_MAX);
            loop {
                let Ok((stream, from)) = listener.accept().await else {
                    // Out of file handles: some will be closed.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (sender, server) = (sender.clone(), trusted(&trust).server);
                handshakes.spawn(handshake(stream, from, server, sender));
            }
        });
        Self { ready, accepting }
    }
}

async fn handshake(
    stream: TcpStream,
    from: SocketAddr,
    server: Arc<ServerConfig>,
    sender: mpsc::Sender<(TlsStream<TcpStream>, Peer)>,
) {
    drop(stream.set_nodelay(true));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(server).accept(stream)).await {
        Ok(Ok(stream)) => {
            let peer = Peer::of(&stream);
            drop(sender.send((stream, peer)).await);
        }
        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS connection"),
        Err(_) => tracing::debug!(%from, "no TLS connection in time"),
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task is aborted only when this is dropped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(Peer::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> FrontProxy {
        let data = [
            ("requestheader-client-ca-file", "a CA"),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ];
        let data = data.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        FrontProxy::read(&ConfigMap { data: Some(data), ..ConfigMap::default() }).unwrap()
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (key, value) in [
            ("x-remote-user", "jane"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-example.org%2fscope", "a"),
            ("x-remote-extra-example.org%2fscope", "b"),
        ] {
            headers.append(key, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_are_read_only_from_the_front_proxy() {
        let named = |name: &str| Peer { common_name: Some(name.to_owned()) };
        let user = proxy().user(&named("front-proxy-client"), &headers()).unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("jane", 2));
        assert_eq!(user.extra["example.org/scope"], ["a", "b"]);
        for (peer, headers, why) in [
            (Peer::default(), headers(), "without the client certificate"),
            (named("somebody"), headers(), "is not the front proxy's"),
            (named("front-proxy-client"), HeaderMap::new(), "did not say who asks"),
        ] {
            let refused = proxy().user(&peer, &headers).unwrap_err();
            assert_eq!(refused.code, 401);
            assert!(refused.message.contains(why), "{}", refused.message);
        }
    }

    #[test]
    fn a_cluster_without_aggregation_is_reported() {
        let error = FrontProxy::read(&ConfigMap::default()).unwrap_err().to_string();
        assert!(error.contains("without aggregation"), "{error}");
    }
}
