"""What containers see of the host: the stand-in for a container image."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .config import NodeConfig
from .env import PodFacts
from .process import Bind

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """`hidden` directories appear empty and open to everybody; `binds` put the needed parts back."""

    hidden: list[str]
    binds: list[Bind]


def image(config: NodeConfig) -> Image:
    """Python lives where its user installed it, often below a home directory that others may not enter. In
    the container such a directory is an empty one, with nothing in it but what is needed."""
    hidden = sorted({str(closed) for path in config.needed if (closed := _closed_ancestor(Path(path)))})
    # All of them, not only the hidden ones: the container's root does not show what is mounted below a
    # top-level directory of the host.
    binds = [Bind(path, path, True) for path in config.needed]
    mounts = [Bind(source, target, True) for target, source in config.image_mounts.items()]
    return Image(hidden, binds + mounts)


def base_environment(config: NodeConfig, facts: PodFacts, uid: int) -> dict[str, str]:
    """The variables every container starts from. Loopback is shared by all pods of the machine, so a server
    must listen on its pod's address, not on all: IMAGEFLEET_HOST tells it which."""
    server = urlsplit(config.server)
    return {
        "PATH": ":".join([*config.path, SYSTEM_PATH]),
        "HOSTNAME": facts.pod["metadata"]["name"],
        "HOME": "/root" if uid == 0 else "/",
        "KUBERNETES_SERVICE_HOST": server.hostname or "",
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(server.port),
        "IMAGEFLEET_HOST": facts.ip,
        **config.env,
    }


def needed_paths(repository: Path) -> list[str]:
    """The checkout (its packages are installed from where they lie), the virtual environment and the
    interpreter behind it: each directory on the way through its symbolic links."""
    found = [repository, Path(sys.prefix)]
    executable = Path(sys.prefix, "bin", "python")
    while executable.is_symlink():
        target = Path(executable.parent, executable.readlink())
        found.append(target.parent.parent)
        executable = target
    found.append(Path(sys.base_prefix))
    return [str(path) for path in dict.fromkeys(found) if path.is_dir()]


def _closed_ancestor(path: Path) -> Path | None:
    """The topmost directory above `path` that other users may not enter."""
    for ancestor in reversed(path.parents):
        if not ancestor.stat().st_mode & 0o001:
            return ancestor
    return None
