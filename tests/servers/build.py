"""Real servers for tests of remote sources: built once with `go install`, then kept outside the work tree."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import build


@dataclass(frozen=True)
class Server:
    name: str
    module: str
    version: str

    def key(self) -> str:
        return f"{self.name}-{self.version}"


REGISTRY = Server("registry", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2")
S3 = Server("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
GCS = Server("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1")
SERVERS = (REGISTRY, S3, GCS)


def ensure(server: Server) -> Path:
    """The server's program. Two processes that need it at once build it once."""
    cache = build.cache()
    program = cache / server.key() / server.name
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with build.locked(cache / f"{server.key()}.lock"):
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{server.name}-build-") as scratch:
                _install(server, Path(scratch, "bin"))
                Path(scratch, "bin").rename(program.parent)
    return program


def _install(server: Server, target: Path) -> None:
    command = ["install", "-trimpath", "-v", "-ldflags", "-s -w", f"{server.module}@{server.version}"]
    # Without cgo no C compiler is needed.
    build.run_go(server.name, command, env={"GOBIN": str(target), "CGO_ENABLED": "0"})


if __name__ == "__main__":
    for each in SERVERS:
        ensure(each)
