"""``make dist``: everything that a release ships, in ``dist/``, with the SHA-256 of each file.

The wheel, the sdist and the chart are built twice and have to be the same bytes: who builds the tag gets what was
published. The Debian package and the image need programs of the host (``dpkg-deb``; ``buildah``); what cannot be built
here is named, and left out.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import meshbridge

__all__ = ["chart", "main", "man_page", "packages"]

ROOT = Path(__file__).parents[1]
VERSION = meshbridge.__version__


def packages(into: Path) -> None:
    """The wheel and the sdist."""
    _run(sys.executable, "-m", "hatchling", "build", "--directory", str(into))


def chart(into: Path) -> None:
    """The Helm chart as ``helm package`` names it."""
    folder = ROOT / "deploy" / "helm" / "meshbridge"
    files = _run("git", "ls-files", "-z", "--", str(folder)).split("\0")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(filter(None, files)):
            path = ROOT / name
            entry = tarfile.TarInfo(f"meshbridge/{path.relative_to(folder)}")
            content = path.read_bytes()  # of what a link leads to, as Helm does it
            entry.size, entry.mtime, entry.mode = len(content), _commit_time(), 0o644
            archive.addfile(entry, io.BytesIO(content))
    (into / f"meshbridge-{VERSION}.chart.tgz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def man_page(into: Path) -> None:
    """The manual page, compressed as in ``/usr/share/man``."""
    page = (ROOT / "docs" / "meshbridge.1").read_bytes()
    (into / "meshbridge.1.gz").write_bytes(gzip.compress(page, mtime=0))


def _debian_package(into: Path) -> None:
    _run(str(ROOT / "deploy" / "debian" / "build"), str(into))


def _image(into: Path) -> None:
    """The container image as an archive for ``docker load``, and its bill of materials."""
    name = f"localhost/meshbridge:{VERSION}"
    revision = _run("git", "rev-parse", "HEAD").strip()
    build_arguments = ("--build-arg", f"VERSION={VERSION}", "--build-arg", f"REVISION={revision}")
    _run("buildah", "build", "--timestamp", str(_commit_time()), *build_arguments, "-t", name, str(ROOT))
    _run("buildah", "push", name, f"docker-archive:{into}/meshbridge-{VERSION}.image.tar:meshbridge:{VERSION}")
    container = _run("buildah", "from", name).strip()
    try:
        bill = _run("buildah", "run", container, "--", "cat", "/opt/meshbridge/sbom.cdx.json")
    finally:
        _run("buildah", "rm", container)
    (into / f"meshbridge-{VERSION}.image.cdx.json").write_text(bill, encoding="utf-8")


def _commit_time() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct"))


def _run(*command: str) -> str:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_commit_time())} if command[0] != "git" else None
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _twice(build: Callable[[Path], None], into: Path) -> None:
    build(into)
    with tempfile.TemporaryDirectory() as again:
        build(Path(again))
        for path in Path(again).iterdir():
            if path.read_bytes() != (into / path.name).read_bytes():
                sys.exit(f"{path.name}: a second build gives other bytes")


def main(into: Path) -> None:
    """Builds all into an empty folder."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for build in (packages, chart, man_page):
        _twice(build, into)
    for program, build in (("dpkg-deb", _debian_package), ("buildah", _image)):
        if shutil.which(program):
            build(into)
        else:
            print(f"left out, since {program} is not installed: {build.__name__.removeprefix('_').replace('_', ' ')}")
    files = sorted(path for path in into.iterdir() if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (into / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(sums), end="")


if __name__ == "__main__":
    main(ROOT / "dist")
