"""``imagefleet-worker verify``: check a source where its files are, and report to the one who reads the pod's end."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from imagefleet_runtime.worker.source import DigestCache, SourceError, folder_of, inspect

MAX_REPORT_BYTES = 4000  # Kubernetes keeps 4,096 bytes of a termination message


def report(uri: str, digest: str | None, class_name: str | None) -> dict[str, Any]:
    """The finding on ``uri``, as in the contract: ``ok`` true with its facts, or false with reason and message."""
    try:
        found = inspect(folder_of(uri), DigestCache(), digest=digest, class_name=class_name)
    except SourceError as error:
        finding = {"ok": False, "reason": error.reason, "message": error.message}
        return finding if error.digest is None else {**finding, "digest": error.digest}
    return {
        "ok": True,
        "digest": found.digest,
        "bytes": found.bytes,
        "files": found.files,
        "className": found.class_name,
    }


def encode(finding: dict[str, Any]) -> bytes:
    """``finding`` as JSON of at most MAX_REPORT_BYTES: its message is cut where it must be."""
    text = json.dumps(finding).encode()
    if len(text) <= MAX_REPORT_BYTES:
        return text
    # json.dumps writes at most 12 bytes for a character, so this many characters always fit beside the rest.
    return json.dumps({**finding, "message": finding["message"][:300] + " ..."}).encode()


def run(arguments: argparse.Namespace) -> int:
    """0 whether the source is good or not; 1, with a line on standard error, where that could not be found out."""
    try:
        text = encode(report(arguments.uri, arguments.digest, arguments.class_name))
        Path(arguments.report).write_bytes(text)
    except OSError as error:  # a disk or network volume that fails, or no place for the report
        print(f"imagefleet-worker verify: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(text.decode())  # noqa: T201  the command's output
    return 0
