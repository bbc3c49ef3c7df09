"""Writing the files of a volume so that the container's user can read them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """Whose files they become; None leaves the node's own."""

    uid: int | None = None
    gid: int | None = None

    def apply(self, path: Path) -> None:
        if os.geteuid() == 0 and (self.uid is not None or self.gid is not None):
            os.chown(path, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)


@dataclass(frozen=True)
class File:
    path: str
    data: bytes
    mode: int
    owner: Owner = Owner()


def write(folder: Path, file: File) -> None:
    """Replace the file in one step: a reader sees the old token or the new one, never half of one."""
    target = folder / file.path
    if ".." in Path(file.path).parts or Path(file.path).is_absolute():
        raise ValueError(f"{file.path!r} leaves its volume")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    temporary.write_bytes(file.data)
    file.owner.apply(temporary)
    temporary.chmod(file.mode | (0o040 if file.owner.gid is not None else 0))
    temporary.rename(target)


def shared_folder(path: Path, group: int | None) -> Path:
    """A folder anybody in the pod may write to; with a group, what is written belongs to it."""
    path.mkdir(parents=True, exist_ok=True)
    Owner(gid=group).apply(path)
    path.chmod(0o777 if group is None else 0o2777)
    return path
