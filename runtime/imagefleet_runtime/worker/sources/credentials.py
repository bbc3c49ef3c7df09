"""Credentials: the files of a mounted Secret."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagefleet_runtime.worker.source import SourceError

MAX_FILE_BYTES = 1024 * 1024  # as much as a Secret may hold
# Shorter values (a region, a user's name) are no secrets, and would blot out half of a message.
SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Credentials:
    """Keys and values of a Secret. Never printed: see ``redact``."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None where there is none or it is blank."""
        return self.values.get(key, "").strip() or None

    def redact(self, text: str) -> str:
        """``text`` without any of the values, for messages that quote a server."""
        for key, value in self.values.items():
            secret = value.strip()
            if key not in ("endpoint", "region") and len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    def fingerprint(self) -> str:
        """Equal for equal credentials, and too slow to compute to guess a password by it."""
        if not self.values:
            return ""
        text = "\0".join(f"{key}\0{value}" for key, value in sorted(self.values.items()))
        return hashlib.scrypt(text.encode(), salt=b"imagefleet-node-cache", n=2**14, r=8, p=1, dklen=16).hex()


def read_credentials(folder: str | None) -> Credentials:
    """The Secret that is mounted at ``folder``, or none. Raises SourceError (AccessDenied)."""
    if folder is None:
        return Credentials()
    try:
        # A Secret's mount has links into a folder "..data", which changes as a whole when the Secret does.
        files = [file for file in Path(folder).iterdir() if not file.name.startswith("..") and file.is_file()]
        values = {file.name: _text(file) for file in files}
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not text"
        raise SourceError("AccessDenied", f"the credentials in {folder} cannot be read: {problem}") from None
    if not values:
        # Secrets are mounted as optional. To go on without would ask with another identity than the spec says.
        raise SourceError("AccessDenied", f"the Secret {Path(folder).name} is missing or empty")
    return Credentials(values)


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES).decode()
