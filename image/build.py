#!/usr/bin/env python3
"""Builds an OCI image of the operator, reproducibly and without a container engine.

    image/build.py BINARY --output elava.tar [--sbom elava.cdx.json]     an archive for `podman load`, `skopeo copy
                                                                          oci-archive:` and `ctr image import`
    image/build.py BINARY --root FOLDER                                  only the files, for the Containerfile
    image/build.py --update-lock                                         pins the versions that Debian offers today

The image contains the stripped binary and what it needs from Debian: the C library, the CA certificates and the time
zones. It has no shell and no package manager; it runs as user 65532 from a read-only file system. Debian's mirrors have
only the newest version of each package: if packages.lock names another version, the build fails with an error that
reports it (--offered accepts the offered versions, for tests).
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "packages.lock"
PACKAGES = ["base-files", "ca-certificates", "libc6", "libgcc-s1", "tzdata"]
KEPT = ("lib/", "lib64/", "usr/share/zoneinfo/", "usr/lib/os-release")
CERTIFICATES = "usr/share/ca-certificates/mozilla/"
USER = 65532
# Time zones that repeat the others in other formats, or with leap seconds.
DROPPED = ("usr/share/zoneinfo/posix/", "usr/share/zoneinfo/right/")


def fail(text):
    sys.exit(f"image: {text}")


def output(*command, **more):
    try:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, **more).stdout
    except FileNotFoundError:
        fail(f"this machine lacks {command[0]}: install it, or build Containerfile with podman or docker")
    except subprocess.CalledProcessError as error:
        fail(f"{' '.join(command)} failed with {error.returncode}: see above")


class Package:
    """A Debian package that was fetched."""

    def __init__(self, path):
        self.path = path
        self.name, self.version = output("dpkg-deb", "--show", str(path)).decode().split()
        self.name = self.name.split(":")[0]
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def control(self):
        return output("dpkg-deb", "--field", str(self.path))

    def files(self):
        with tarfile.open(fileobj=io.BytesIO(output("dpkg-deb", "--fsys-tarfile", str(self.path)))) as tar:
            for member in tar:
                member.name = member.name.removeprefix("./")
                yield member, tar.extractfile(member).read() if member.isfile() else b""

    def line(self):
        return f"{self.name} {self.version} {self.sha256}\n"


def fetch(folder):
    """Fetches the packages that Debian offers today."""
    download = ["apt-get", "download", "--quiet", *PACKAGES]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL}
    if shutil.which("apt-get") is None:
        fail("this machine has no apt-get: build Containerfile with podman or docker instead")
    if subprocess.run(download, stderr=subprocess.DEVNULL, **quiet).returncode != 0:
        print("image: updating the list of Debian's packages (apt-get update)", file=sys.stderr)
        subprocess.run(["apt-get", "update", "--quiet"], check=False, **quiet)
        if subprocess.run(download, **quiet).returncode != 0:
            fail(f"apt-get can't download {', '.join(PACKAGES)}: see above")
    return sorted((Package(path) for path in Path(folder).glob("*.deb")), key=lambda package: package.name)


def check(packages):
    pinned = LOCK.read_text().splitlines()
    differing = [package.line().split()[:2] for package in packages if package.line().strip() not in pinned]
    if differing:
        offered = ", ".join(" ".join(one) for one in differing)
        fail(f"Debian offers another version than packages.lock pins: {offered}. Run image/build.py --update-lock, "
             "review the change and commit it")


class Root:
    """Files by path, as they will be in the image."""

    def __init__(self):
        self.entries = {}

    def add(self, path, data=b"", mode=0o644, owner=0, kind=tarfile.REGTYPE, link=""):
        info = tarfile.TarInfo(path)
        info.size, info.mode, info.uid, info.gid = len(data), mode, owner, owner
        info.type, info.linkname, info.mtime = kind, link, 0
        self.entries[path] = (info, data)

    def folder(self, path, mode=0o755, owner=0):
        self.add(path, mode=mode, owner=owner, kind=tarfile.DIRTYPE)

    def with_parents(self):
        for path in list(self.entries):
            for parent in Path(path).parents:
                if str(parent) not in self.entries and str(parent) != ".":
                    self.folder(str(parent))
        return [self.entries[path] for path in sorted(self.entries)]

    def tar(self):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for info, data in self.with_parents():
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    def write(self, folder):
        with tarfile.open(fileobj=io.BytesIO(self.tar())) as tar:
            tar.extractall(folder, filter="tar" if hasattr(tarfile, "tar_filter") else None)


def debian(packages):
    root = Root()
    certificates = {}
    for package in packages:
        for member, data in package.files():
            path = member.name
            if path.startswith(CERTIFICATES) and member.isfile():
                certificates[path] = data
            elif path == f"usr/share/doc/{package.name}/copyright" and member.isfile():
                root.add(path, data)
            elif path.startswith(KEPT) and not path.startswith(DROPPED) and not member.isdir():
                if member.islnk():
                    fail(f"{package.name} has a hard link at {path}, which image/build.py does not support")
                root.add(path, data, member.mode, kind=member.type, link=member.linkname)
        # Image scanners search here for packages that were not installed by dpkg.
        root.add(f"var/lib/dpkg/status.d/{package.name}", package.control())
    if not certificates:
        fail(f"ca-certificates has nothing in {CERTIFICATES}")
    root.add("etc/ssl/certs/ca-certificates.crt", b"".join(certificates[path] for path in sorted(certificates)))
    root.add("etc/os-release", kind=tarfile.SYMTYPE, mode=0o777, link="../usr/lib/os-release")
    root.add("etc/passwd", f"root:x:0:0:root:/:/sbin/nologin\nelava:x:{USER}:{USER}:Elava:/:/sbin/nologin\n".encode())
    root.add("etc/group", f"root:x:0:\nelava:x:{USER}:\n".encode())
    root.add("etc/nsswitch.conf", b"hosts: files dns\n")
    root.folder("tmp", 0o1777)
    root.folder("var/lib/elava", 0o755, USER)
    return root


def stripped(binary):
    with tempfile.NamedTemporaryFile() as out:
        output("strip", "--strip-all", "-o", out.name, binary)
        return Path(out.name).read_bytes()


def operator(binary):
    root = Root()
    root.add("usr/bin/elava", stripped(binary), 0o755)
    return root


def packed(data, level):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=level) as zipped:
        zipped.write(data)
    return buffer.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def version():
    found = re.search(r'^version = "(.*)"', (HERE.parent / "Cargo.toml").read_text(), re.MULTILINE)
    return found.group(1)


def image(path, name, roots, entrypoint="/usr/bin/elava", level=6):
    """https://github.com/opencontainers/image-spec: one manifest, one layer per root, as a tar of an image layout."""
    tars = [root.tar() for root in roots]
    layers = [packed(tar, level) for tar in tars]
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = compact({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": [entrypoint],
            "User": f"{USER}:{USER}",
            "WorkingDir": "/",
            "Env": ["PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            "Labels": {
                "org.opencontainers.image.title": "elava",
                "org.opencontainers.image.description": "Watches cloud accounts and remembers what it saw",
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.version": version(),
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
    })
    oci = "application/vnd.oci.image"
    described = [{"mediaType": f"{oci}.layer.v1.tar+gzip", "digest": digest(layer), "size": len(layer)} for layer in layers]
    manifest = compact({
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": {"mediaType": f"{oci}.config.v1+json", "digest": digest(config), "size": len(config)},
        "layers": described,
    })
    index = compact({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": f"{oci}.manifest.v1+json",
            "digest": digest(manifest),
            "size": len(manifest),
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
            },
        }],
    })
    files = {"oci-layout": compact({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    files.update({"blobs/" + digest(blob).replace(":", "/"): blob for blob in [config, manifest, *layers]})
    root = Root()
    for file, data in files.items():
        root.add(file, data)
    Path(path).write_bytes(root.tar())
    return digest(manifest), sum(map(len, tars)), sum(map(len, layers))


def crates():
    """The crates that are linked into the binary, by cargo's own resolution."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform",
               f"{os.uname().machine}-unknown-linux-gnu"]
    metadata = json.loads(output(*command, cwd=HERE.parent))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    wanted, reached = [root], set()
    while wanted:
        one = wanted.pop()
        if one in reached:
            continue
        reached.add(one)
        for needed in nodes[one]["deps"]:
            if any(kind["kind"] is None for kind in needed["dep_kinds"]):
                wanted.append(needed["pkg"])
    locked = re.findall(r'name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"',
                        (HERE.parent / "Cargo.lock").read_text())
    checksums = {(name, of): checksum for name, of, checksum in locked}
    reached.discard(root)
    for one in sorted((packages[id] for id in reached), key=lambda package: (package["name"], package["version"])):
        yield one["name"], one["version"], one["license"], checksums.get((one["name"], one["version"]))


def bill(packages, image_digest):
    """https://cyclonedx.org/docs/1.6/json/"""
    components = []
    for package in packages:
        url = f"pkg:deb/debian/{package.name}@{package.version.replace('+', '%2B')}?arch=amd64"
        components.append({"type": "library", "bom-ref": url, "name": package.name, "version": package.version, "purl": url,
                           "hashes": [{"alg": "SHA-256", "content": package.sha256}]})
    for name, of, license, checksum in crates():
        url = f"pkg:cargo/{name}@{of.replace('+', '%2B')}"
        component = {"type": "library", "bom-ref": url, "name": name, "version": of, "purl": url}
        if license:
            component["licenses"] = [{"expression": license.replace("/", " OR ")}]
        if checksum:
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        components.append(component)
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "container", "bom-ref": "elava", "name": "elava", "version": version(),
            "hashes": [{"alg": "SHA-256", "content": image_digest.removeprefix("sha256:")}],
        }},
        "components": components,
    }
    # The same image gets the same bill of materials.
    body["serialNumber"] = "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, digest(compact(body))))
    return body


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", help="the operator, as cargo built it")
    parser.add_argument("--output", help="where the image goes")
    parser.add_argument("--root", help="a folder for the files alone")
    parser.add_argument("--sbom", help="where the CycloneDX bill of materials goes")
    parser.add_argument("--name", default=f"ghcr.io/elava/elava:{version()}")
    parser.add_argument("--offered", action="store_true", help="take the packages that Debian offers, whatever is pinned")
    parser.add_argument("--update-lock", action="store_true", help="pin what Debian offers")
    parser.add_argument("--compression", type=int, default=6, help="of gzip, 1 to 9")
    parser.add_argument("--debs", help="a folder that keeps fetched packages")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = [Package(path) for path in sorted(Path(args.debs).glob("*.deb"))] if args.debs else []
        packages = kept if len(kept) == len(PACKAGES) else fetch(args.debs or temporary)
        if args.update_lock:
            LOCK.write_text("".join(package.line() for package in packages))
            print(LOCK.read_text(), end="")
            return
        if args.binary is None or not (args.output or args.root):
            parser.error("BINARY and --output or --root are needed")
        if not args.offered:
            check(packages)
        roots = [debian(packages), operator(args.binary)]
        if args.root:
            for root in roots:
                root.write(args.root)
            return
        manifest, unpacked, size = image(args.output, args.name, roots, level=args.compression)
        print(f"{args.name} {manifest}")
        print(f"{args.output}: {size / 1e6:.1f} MB in {len(roots)} layers, {unpacked / 1e6:.1f} MB unpacked")
        if args.sbom:
            contents = bill(packages, manifest)
            Path(args.sbom).write_text(json.dumps(contents, indent=1) + "\n")
            print(f"{args.sbom}: CycloneDX {contents['specVersion']}, {len(contents['components'])} components")


if __name__ == "__main__":
    main()
