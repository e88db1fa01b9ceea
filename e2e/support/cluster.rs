//! etcd, kube-apiserver and kube-controller-manager.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::kubectl::Kubectl;
use super::process::Process;
use super::{DEADLINE, free_port, tools};

pub struct Cluster {
    dir: PathBuf,
    port: u16,
    // In drop order.
    controller_manager: Option<Process>,
    api_server: Option<Process>,
    _etcd: Process,
    kubectl: Kubectl,
}

impl Deref for Cluster {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Cluster {
    pub async fn start(dir: &Path) -> Self {
        let dir = dir.join("cluster");
        std::fs::create_dir_all(&dir).expect("the test's folder is writable");
        let (etcd_port, etcd_peer_port, port) = (free_port(), free_port(), free_port());
        write_keys(&dir, port);
        let client_url = format!("http://127.0.0.1:{etcd_port}");
        let peer_url = format!("http://127.0.0.1:{etcd_peer_port}");
        let etcd = Process::start(
            &dir,
            "etcd",
            &tools().join("etcd"),
            [
                format!("--data-dir={}", dir.join("etcd").display()),
                format!("--listen-client-urls={client_url}"),
                format!("--advertise-client-urls={client_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
            &[],
        );
        std::fs::write(dir.join("etcd-url"), client_url).expect("the test's folder is writable");
        let kubectl = Kubectl::new(&dir, &dir.join("admin.kubeconfig"));
        let mut cluster = Self { dir, port, controller_manager: None, api_server: None, _etcd: etcd, kubectl };
        cluster.start_api_server().await;
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let at = |name: &str| cluster.dir.join(name).display().to_string();
        let controller_manager = Process::start(
            &cluster.dir,
            "kube-controller-manager",
            &tools().join("kube-controller-manager"),
            [
                format!("--kubeconfig={kubeconfig}"),
                format!("--authentication-kubeconfig={kubeconfig}"),
                format!("--authorization-kubeconfig={kubeconfig}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", free_port()),
                "--leader-elect=false".to_owned(),
                "--kube-api-qps=300".to_owned(),
                "--kube-api-burst=600".to_owned(),
                "--use-service-account-credentials".to_owned(),
                format!("--service-account-private-key-file={}", at("sa.key")),
                format!("--root-ca-file={}", at("ca.crt")),
            ],
            &[],
        );
        cluster.controller_manager = Some(controller_manager);
        cluster
    }

    /// Starts the API server, on the same port each time.
    pub async fn start_api_server(&mut self) {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let etcd_url = std::fs::read_to_string(self.dir.join("etcd-url")).expect("written at the start");
        let api_server = Process::start(
            &self.dir,
            "kube-apiserver",
            &tools().join("kube-apiserver"),
            [
                format!("--etcd-servers={etcd_url}"),
                format!("--secure-port={}", self.port),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                format!("--cert-dir={}", at("")),
                format!("--tls-cert-file={}", at("server.crt")),
                format!("--tls-private-key-file={}", at("server.key")),
                format!("--client-ca-file={}", at("ca.crt")),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", at("sa.pub")),
                format!("--service-account-signing-key-file={}", at("sa.key")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
                format!("--requestheader-client-ca-file={}", at("front-proxy-ca.crt")),
                "--requestheader-allowed-names=front-proxy-client".to_owned(),
                "--requestheader-username-headers=X-Remote-User".to_owned(),
                "--requestheader-group-headers=X-Remote-Group".to_owned(),
                "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
                format!("--proxy-client-cert-file={}", at("front-proxy.crt")),
                format!("--proxy-client-key-file={}", at("front-proxy.key")),
                // Objects are few and short-lived here: there is no need to wait for a watch cache.
                "--shutdown-delay-duration=0s".to_owned(),
            ],
            &[],
        );
        self.api_server = Some(api_server);
        let started = Instant::now();
        while !self.kubectl(&["get", "--raw=/readyz"]).status.success() {
            let running = self.api_server.as_mut().is_some_and(|p| p.ended().is_none());
            assert!(running && started.elapsed() < DEADLINE, "the API server is not ready: {}", self.tails());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops the API server.
    pub fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    /// A certificate with its key, as one PEM.
    pub fn identity(&self, name: &str) -> String {
        let read =
            |kind: &str| std::fs::read_to_string(self.dir.join(format!("{name}.{kind}"))).expect("it was signed");
        read("crt") + &read("key")
    }

    /// A kubeconfig for a ServiceAccount, with a token from the API server.
    pub fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> PathBuf {
        let token = self.run(&["create", "token", service_account, "-n", namespace, "--duration=8h"]);
        let path = self.dir.join(format!("{service_account}.kubeconfig"));
        write_kubeconfig(&self.dir, self.port, &path, &format!("{{token: {}}}", token.trim()));
        path
    }

    fn tails(&self) -> String {
        let parts = [self.api_server.as_ref(), self.controller_manager.as_ref()];
        parts.into_iter().flatten().map(Process::tail).collect()
    }
}

/// A CA whose certificate, and the certificates that it signs, are in a folder.
struct Ca {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn write(dir: &Path, name: &str, text: String) {
    std::fs::write(dir.join(name), text).expect("the test's folder is writable");
}

impl Ca {
    fn new(dir: &Path, name: &str) -> Self {
        let key = key();
        let mut params = named(&format!("elava-test-{name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        write(dir, &format!("{name}.crt"), params.self_signed(&key).expect("a CA signs itself").pem());
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, mut params: CertificateParams) {
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let own = key();
        let signed = params.signed_by(&own, &self.issuer).expect("the CA signs");
        write(&self.dir, &format!("{name}.crt"), signed.pem());
        write(&self.dir, &format!("{name}.key"), own.serialize_pem());
    }
}

fn write_keys(dir: &Path, port: u16) {
    let ca = Ca::new(dir, "ca");
    let mut server = named("kube-apiserver");
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    server.subject_alt_names =
        names.iter().map(|n| rcgen::SanType::DnsName((*n).try_into().expect("ASCII"))).collect();
    server.subject_alt_names.push(rcgen::SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    ca.sign("server", server);
    let mut admin = named("admin");
    admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
    ca.sign("admin", admin);
    let front_proxy = Ca::new(dir, "front-proxy-ca");
    front_proxy.sign("front-proxy", named("front-proxy-client"));
    // For negative tests: signed by the right CA, with a name that is not allowed.
    front_proxy.sign("somebody", named("somebody"));
    let tokens = key();
    write(dir, "sa.key", tokens.serialize_pem());
    write(dir, "sa.pub", tokens.public_key_pem());
    let at = |name: &str| dir.join(name).display().to_string();
    let user = format!("{{client-certificate: {}, client-key: {}}}", at("admin.crt"), at("admin.key"));
    write_kubeconfig(dir, port, &dir.join("admin.kubeconfig"), &user);
}

fn write_kubeconfig(dir: &Path, port: u16, path: &Path, user: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: elava\n\
         clusters: [{{name: elava, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {}}}}}]\n\
         users: [{{name: elava, user: {user}}}]\n\
         contexts: [{{name: elava, context: {{cluster: elava, user: elava}}}}]\n",
        dir.join("ca.crt").display()
    );
    std::fs::write(path, text).expect("the test's folder is writable");
}

/// The operator does not run in a pod here: the Service must lead to a port on loopback, which only an ExternalName
/// can.
pub fn serve_from_loopback(cluster: &Cluster, port: u16) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "elava-query", "namespace": "elava"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    cluster.run(&["delete", "service", "elava-query", "--namespace", "elava"]);
    cluster.apply(&service.to_string()).expect("the Service is good");
    let to_port = json!({"spec": {"service": {"port": port}}}).to_string();
    cluster.run(&["patch", "apiservice", "v1alpha1.inventory.elava.dev", "--type=merge", "-p", &to_port]);
}

pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/elava")
}
