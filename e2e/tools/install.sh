#!/usr/bin/env bash
# Brings the real parts that the tests and the demo run on: kube-apiserver, kube-controller-manager,
# kubectl, etcd and helm, built by Go from pinned sources, and an AWS emulator (moto) and DuckDB, each in
# a Python environment of its own. All of it lies in one cache folder that is named by the hash of the
# pins, so it is built once. Prints that folder on standard output, and what it does on standard error.
#
#   ELAVA_CACHE         where to keep it (default: ~/.cache/elava)
#   KUBEBUILDER_ASSETS  a folder that has kube-apiserver, etcd or kubectl already
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

pins=$(cat kubernetes/go.mod kubernetes/go.sum etcd/go.mod etcd/go.sum helm/go.mod helm/go.sum aws/requirements.txt |
  sha256sum | cut -c1-16)
cache=${ELAVA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/elava}
tools=$cache/tools-$pins
mkdir -p "$tools"
exec 9>"$tools/.lock"
flock 9

kubernetes_version=$(sed -n 's#^\s*k8s.io/kubernetes \(v[0-9.]*\).*#\1#p' kubernetes/go.mod | head -n 1)

# build NAME MODULE-FOLDER PACKAGE
build() {
  local name=$1 module=$2 package=$3
  [[ -x $tools/$name ]] && return
  if [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$name ]]; then
    say "$name is taken from KUBEBUILDER_ASSETS"
    ln -s "$KUBEBUILDER_ASSETS/$name" "$tools/$name"
    return
  fi
  say "building $name ($package); from nothing this takes some minutes"
  (
    cd "$module"
    # Without the version, clients can't parse what the API server says of itself.
    CGO_ENABLED=0 go build -trimpath -o "$tools/$name.new" \
      -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes_version" "$package" >&2
  )
  mv "$tools/$name.new" "$tools/$name"
}

build etcd etcd go.etcd.io/etcd/server/v3
build kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver
build kube-controller-manager kubernetes k8s.io/kubernetes/cmd/kube-controller-manager
build kubectl kubernetes k8s.io/kubernetes/cmd/kubectl
build helm helm helm.sh/helm/v4/cmd/helm

# environment FOLDER MODULE-FOLDER WHAT: a Python environment of its own
environment() {
  local folder=$1 requirements=$2/requirements.txt what=$3
  [[ -e $folder/complete ]] && return
  say "installing $what ($requirements)"
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2 ||
    { rm -rf "$folder"; say "pip could not install $what: see above"; exit 1; }
  touch "$folder/complete"
}

environment "$tools/aws" aws "the AWS emulator"
# Named by its own pin: another version of it builds no control plane again.
duckdb=$cache/duckdb-$(sha256sum duckdb/requirements.txt | cut -c1-16)
environment "$duckdb" duckdb "DuckDB"
ln -sfn "$duckdb" "$tools/duckdb"

echo "$tools"
