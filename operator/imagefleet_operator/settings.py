"""The operator's settings: flags, each with an environment variable that stands in for it."""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagefleet_operator.election import LeaseSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked."""

    worker_image: str
    caller_key_file: Path
    lease: LeaseSettings
    host: str
    port: int
    queue_workers: int
    resync_seconds: float
    log_level: str


def parse_settings(arguments: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Read flags and environment. Ends the process with a message and status 2 where they are wrong."""
    environment = os.environ if env is None else env
    parser = argparse.ArgumentParser(
        prog="imagefleet-operator", description="Reconciles ImageModels and InferencePools of a cluster."
    )

    def flag(name: str, variable: str, default: str | None, text: str, kind: type = str) -> None:
        value = environment.get(variable, default)
        parser.add_argument(
            name,
            default=value,
            required=value is None,
            type=kind,
            help=f"{text} (${variable}; {value or 'required'})",
        )

    flag("--worker-image", "IMAGEFLEET_WORKER_IMAGE", None, "image of workers and of verification Jobs")
    flag(
        "--caller-key-file",
        "IMAGEFLEET_CALLER_KEY_FILE",
        None,
        "private Ed25519 key (PEM) to call workers",
        Path,
    )
    flag("--lease-namespace", "POD_NAMESPACE", None, "namespace of the leader election's Lease")
    flag("--identity", "POD_NAME", socket.gethostname(), "this replica's name in the Lease")
    flag("--lease-seconds", "IMAGEFLEET_LEASE_SECONDS", "15", "a silent leader is replaced after this", float)
    flag(
        "--renew-seconds",
        "IMAGEFLEET_RENEW_SECONDS",
        "10",
        "a leader that cannot renew ends after this",
        float,
    )
    flag(
        "--retry-seconds", "IMAGEFLEET_RETRY_SECONDS", "2", "between two attempts to renew or acquire", float
    )
    flag("--host", "IMAGEFLEET_HOST", "0.0.0.0", "address of /metrics, /livez and /readyz")
    flag("--port", "IMAGEFLEET_PORT", "8081", "its port", int)
    flag("--queue-workers", "IMAGEFLEET_QUEUE_WORKERS", "24", "passes that run at once", int)
    flag(
        "--resync-seconds",
        "IMAGEFLEET_RESYNC_SECONDS",
        "450",
        "between full lists, give or take a third",
        float,
    )
    flag("--log-level", "IMAGEFLEET_LOG_LEVEL", "info", "debug, info, warning or error")
    found = parser.parse_args(arguments)
    try:
        lease = LeaseSettings(
            namespace=found.lease_namespace,
            identity=found.identity,
            lease_seconds=found.lease_seconds,
            renew_seconds=found.renew_seconds,
            retry_seconds=found.retry_seconds,
        )
    except ValueError as error:
        parser.error(str(error))
    if found.queue_workers < 1 or found.resync_seconds <= 0:
        parser.error("--queue-workers and --resync-seconds must be positive")
    if found.log_level not in ("debug", "info", "warning", "error"):
        parser.error(f"--log-level is {found.log_level!r}, not debug, info, warning or error")
    return Settings(
        worker_image=found.worker_image,
        caller_key_file=found.caller_key_file,
        lease=lease,
        host=found.host,
        port=found.port,
        queue_workers=found.queue_workers,
        resync_seconds=found.resync_seconds,
        log_level=found.log_level,
    )
