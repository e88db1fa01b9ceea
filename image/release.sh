#!/usr/bin/env bash
# Builds, signs and publishes a release, with its provenance.
#
#   image/release.sh tools                        installs cosign and crane, as pinned below, with Go
#   image/release.sh make VERSION FOLDER          builds the image, its SBOM, the chart and the provenance
#   image/release.sh sign FOLDER                  signs each file and attests its provenance
#   image/release.sh verify FOLDER                verifies the signatures and the attestations
#   image/release.sh publish REPOSITORY VERSION   publishes all of it after `crane auth login`, `helm registry login`
#
# Signatures use the identity of the running workflow (Sigstore: there is no key of ours), or a key, for a trial:
#   cosign generate-key-pair; COSIGN_KEY=cosign.key COSIGN_PUBLIC_KEY=cosign.pub image/release.sh sign FOLDER
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cosign_version=v2.6.1 crane_version=v0.20.6

say() { echo "release: $*" >&2; }

# Additional flags for cosign: with a key nothing leaves this machine.
signing() { if [[ -n ${COSIGN_KEY:-} ]]; then echo "--key $COSIGN_KEY --tlog-upload=false"; fi; }
verifying() {
  if [[ -n ${COSIGN_PUBLIC_KEY:-} ]]; then
    echo "--key $COSIGN_PUBLIC_KEY --insecure-ignore-tlog=true"
  else
    echo "--certificate-identity-regexp ${IDENTITY:-^https://github.com/elava/elava/.github/workflows/release.yaml@refs/tags/v}" \
      "--certificate-oidc-issuer https://token.actions.githubusercontent.com"
  fi
}

artifacts() { (cd "$1" && ls elava-*.tar elava-*.cdx.json elava-*.tgz); }

# https://slsa.dev/spec/v1.0/provenance
provenance() {
  local version=$1
  python3 - "$version" "$(git -C "$root" rev-parse HEAD)" "$(git -C "$root" log -1 --format=%cI)" <<'PYTHON'
import json, os, sys
version, commit, date = sys.argv[1:]
server, repository = os.environ.get("GITHUB_SERVER_URL", "https://github.com"), os.environ.get("GITHUB_REPOSITORY", "elava/elava")
workflow = os.environ.get("GITHUB_WORKFLOW_REF")
run = os.environ.get("GITHUB_RUN_ID")
print(json.dumps({
    "buildDefinition": {
        "buildType": f"{server}/{repository}/blob/main/image/release.sh",
        "externalParameters": {"version": version, "ref": os.environ.get("GITHUB_REF", "local")},
        "resolvedDependencies": [{"uri": f"git+{server}/{repository}", "digest": {"gitCommit": commit}}],
    },
    "runDetails": {
        "builder": {"id": f"{server}/{workflow}" if workflow else "local"},
        "metadata": {"invocationId": f"{server}/{repository}/actions/runs/{run}" if run else "local", "startedOn": date},
    },
}, indent=2))
PYTHON
}

make_all() {
  local version=$1 folder=$2 binary
  mkdir -p "$folder"
  (cd "$root" && cargo build --release --locked --bin elava)
  binary=$(cd "$root" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/elava
  # Debian's mirrors have only the newest version of each package: the versions in packages.lock may be gone.
  "$root/image/build.py" "$binary" ${OFFERED:+--offered} --name "elava:$version" --output "$folder/elava-$version.tar" \
    --sbom "$folder/elava-$version.cdx.json"
  helm package "$root/charts/elava" --version "$version" --app-version "$version" --destination "$folder" > /dev/null
  provenance "$version" > "$folder/provenance.json"
  (cd "$folder" && artifacts . | xargs sha256sum > SHA256SUMS)
  say "$(artifacts "$folder" | wc -l) files in $folder"
}

sign() {
  local folder=$1 file more
  read -ra more <<< "$(signing)"
  for file in $(artifacts "$folder"); do
    cosign sign-blob --yes "${more[@]}" --bundle "$folder/$file.sigstore.json" "$folder/$file" > /dev/null
    cosign attest-blob --yes "${more[@]}" --type slsaprovenance1 --predicate "$folder/provenance.json" \
      --bundle "$folder/$file.provenance.sigstore.json" "$folder/$file" > /dev/null
    say "$file is signed, and attested"
  done
}

verify() {
  local folder=$1 file more
  read -ra more <<< "$(verifying)"
  (cd "$folder" && sha256sum --quiet --check SHA256SUMS)
  for file in $(artifacts "$folder"); do
    cosign verify-blob "${more[@]}" --bundle "$folder/$file.sigstore.json" "$folder/$file" > /dev/null
    cosign verify-blob-attestation "${more[@]}" --type slsaprovenance1 \
      --bundle "$folder/$file.provenance.sigstore.json" "$folder/$file" > /dev/null
    say "$file is what was signed, and how it was made is attested"
  done
}

publish() {
  local repository=$1 version=$2 folder digest more
  folder=$(mktemp -d)
  make_all "$version" "$folder"
  sign "$folder"
  verify "$folder"
  read -ra more <<< "$(signing)"
  digest=$(crane push "$folder/elava-$version.tar" "$repository:$version")
  cosign sign --yes "${more[@]}" "$digest"
  cosign attest --yes "${more[@]}" --type cyclonedx --predicate "$folder/elava-$version.cdx.json" "$digest"
  cosign attest --yes "${more[@]}" --type slsaprovenance1 --predicate "$folder/provenance.json" "$digest"
  helm push "$folder/elava-$version.tgz" "oci://${repository%/*}/charts"
  digest=$(crane digest "${repository%/*}/charts/elava:$version")
  cosign sign --yes "${more[@]}" "${repository%/*}/charts/elava@$digest"
  say "published $repository:$version and its chart"
}

case ${1:-} in
  tools)
    go install "github.com/sigstore/cosign/v2/cmd/cosign@$cosign_version"
    go install "github.com/google/go-containerregistry/cmd/crane@$crane_version"
    ;;
  make) make_all "$2" "$3" ;;
  sign) sign "$2" ;;
  verify) verify "$2" ;;
  publish) publish "$2" "$3" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
