"""What a fetch will bring: decided from the listing, before any byte of weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from imagefleet_runtime.worker.source import SourceError, parse_index
from imagefleet_runtime.worker.sources import selection
from imagefleet_runtime.worker.sources.place import Place
from imagefleet_runtime.worker.sources.remote import Remote, RemoteFile, TransientError

MAX_INDEX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    files: tuple[RemoteFile, ...]  # by name

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def identity(self, uri: str, fingerprint: str) -> str:
        """Hex: the same for the same files of the same source, fetched with the same credentials."""
        lines = [f"{file.name}\0{file.size}\0{file.sha256}\0{file.version}" for file in self.files]
        return hashlib.sha256("\n".join([uri, fingerprint, *lines]).encode()).hexdigest()


def make_plan(remote: Remote, place: Place, limit_bytes: int) -> Plan:
    """The files of ``remote`` that ``place`` needs. Raises SourceError, TransientError."""
    listed = remote.files()
    chosen = selection.of_adapter(listed) if place.adapter else _of_pipeline(remote, listed)
    plan = Plan(tuple(chosen))
    if plan.bytes > limit_bytes:
        raise SourceError(
            "TooLarge",
            f"the source has {plan.bytes} bytes, over the limit of {limit_bytes} (IMAGEFLEET_SOURCE_LIMIT_BYTES)",
        )
    return plan


def _of_pipeline(remote: Remote, listed: list[RemoteFile]) -> list[RemoteFile]:
    index = next((file for file in listed if file.name == selection.INDEX), None)
    if index is None:
        raise SourceError("NotAPipeline", f"the source holds no {selection.INDEX} at its top")
    if not 0 <= index.size <= MAX_INDEX_BYTES:
        raise SourceError("NotAPipeline", f"{selection.INDEX} is larger than {MAX_INDEX_BYTES} bytes")
    return selection.of_pipeline(listed, parse_index(_read(remote, index)))


def _read(remote: Remote, file: RemoteFile) -> bytes:
    text = bytearray()
    with remote.open(file, 0, file.size) as chunks:
        for chunk in chunks:
            text += chunk[: file.size - len(text)]
            if len(text) == file.size:
                return bytes(text)
    if len(text) < file.size:
        raise TransientError(f"{file.name} broke off after {len(text)} of {file.size} bytes")
    return bytes(text)
