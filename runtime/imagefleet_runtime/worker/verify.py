"""``imagefleet-worker verify``: check a source where its files are, and report to the one who reads the pod's end."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagefleet_runtime.worker.settings import CacheSettings, SettingsError, read_cache_settings
from imagefleet_runtime.worker.source import DigestCache, SourceError, inspect, inspect_adapter
from imagefleet_runtime.worker.sources import NodeCache
from imagefleet_runtime.worker.sources.schemes import place_of

MAX_REPORT_BYTES = 4000  # Kubernetes keeps 4,096 bytes of a termination message


@dataclass(frozen=True)
class AdapterOrder:
    name: str
    uri: str
    digest: str | None
    credentials: str | None  # the folder that its Secret is mounted at


def adapter_orders(adapters: Sequence[str], credentials: Sequence[str]) -> list[AdapterOrder]:
    """The adapters of a command line. Raises ValueError with what is wrong about it."""
    folders = dict(_pair("--adapter-credentials", text) for text in credentials)
    orders = []
    for text in adapters:
        name, place = _pair("--adapter", text)
        uri, _, digest = place.partition("#")
        orders.append(AdapterOrder(name, uri, digest or None, folders.pop(name, None)))
    if folders:
        raise ValueError(f"--adapter-credentials {', '.join(folders)}: there is no --adapter of that name")
    return orders


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{option} {text}: write NAME=...")
    return name, value


class Verifier:
    def __init__(self, settings: CacheSettings) -> None:
        self._digests = DigestCache()
        self._cache = NodeCache(
            settings.folder, settings.limit_bytes, settings.source_limit_bytes, digests=self._digests
        )

    def report(
        self,
        uri: str,
        digest: str | None = None,
        class_name: str | None = None,
        credentials: str | None = None,
        adapters: Sequence[AdapterOrder] = (),
    ) -> dict[str, Any]:
        """The finding, as in the contract: ``ok`` true with its facts, or false with reason and message.

        Raises OSError where that cannot be found out.
        """
        try:
            with self._folder(uri, credentials, digest, adapter=False) as folder:
                found = inspect(folder, self._digests, digest=digest, class_name=class_name)
            checked = [self._check_adapter(order) for order in adapters]
        except SourceError as error:
            finding = {"ok": False, "reason": error.reason, "message": error.message}
            return finding if error.digest is None else {**finding, "digest": error.digest}
        finding = {
            "ok": True,
            "digest": found.digest,
            "bytes": found.bytes,
            "files": found.files,
            "className": found.class_name,
        }
        return {**finding, "adapters": checked} if checked else finding

    def _check_adapter(self, order: AdapterOrder) -> dict[str, Any]:
        """Raises SourceError whose message names the adapter; its digest would pass for the model's, so it has none."""
        try:
            with self._folder(order.uri, order.credentials, order.digest, adapter=True) as folder:
                found = inspect_adapter(folder, self._digests, digest=order.digest)
        except SourceError as error:
            raise SourceError(error.reason, f"adapter {order.name}: {error.message}") from None
        return {"name": order.name, "digest": found.digest, "bytes": found.bytes}

    @contextmanager
    def _folder(
        self, uri: str, credentials: str | None, digest: str | None, *, adapter: bool
    ) -> Iterator[Path]:
        place = place_of(uri, credentials, digest, adapter=adapter)
        folder = self._cache.fetch(place, lambda done, total: None, threading.Event())
        try:
            yield folder
        finally:
            self._cache.release(folder)


def encode(finding: dict[str, Any]) -> bytes:
    """``finding`` as JSON of at most MAX_REPORT_BYTES: its message is cut where it must be."""
    text = json.dumps(finding).encode()
    if len(text) <= MAX_REPORT_BYTES or "message" not in finding:
        return text
    # json.dumps writes at most 12 bytes for a character, so this many characters always fit beside the rest.
    return json.dumps({**finding, "message": finding["message"][:300] + " ..."}).encode()


def run(arguments: argparse.Namespace) -> int:
    """0 whether the source is good or not, but 3 where it is not and is required; 1, with a line on standard error,
    where that could not be found out; 2 for a wrong command line or setting."""
    try:
        adapters = adapter_orders(arguments.adapter, arguments.adapter_credentials)
        verifier = Verifier(read_cache_settings(os.environ))
    except (ValueError, SettingsError) as error:
        return _say(f"{error}", 2)
    try:
        finding = verifier.report(
            arguments.uri, arguments.digest, arguments.class_name, arguments.credentials, adapters
        )
        text = encode(finding)
        Path(arguments.report).write_bytes(text)
    except OSError as error:  # a disk or network volume that fails, or no place for the report
        return _say(f"{error}", 1)
    print(text.decode())  # noqa: T201  the command's output
    return 0 if finding["ok"] or not arguments.required else 3


def _say(message: str, code: int) -> int:
    print(f"imagefleet-worker verify: {message}", file=sys.stderr)  # noqa: T201
    return code
