"""The operator's settings: flags, each with an environment variable that stands in for it."""

import argparse
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagefleet_operator.election import LeaseSettings
from imagefleet_operator.plan.types import Json
from imagefleet_operator.plan.workers import SOURCE_LIMIT_BYTES, NodeCache, WorkerDefaults

CACHE_TYPES = ("emptyDir", "hostPath", "pvc")
GATEWAY_SELECTOR = "app.kubernetes.io/name=imagefleet-gateway"
"""The chart's label of gateways."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked."""

    workers: WorkerDefaults
    caller_key_file: Path
    lease: LeaseSettings
    host: str
    port: int
    queue_workers: int
    resync_seconds: float
    gateway_selector: str
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
            help=f"{text} (${variable}; {'required' if value is None else value or 'none'})",
        )

    flag("--worker-image", "IMAGEFLEET_WORKER_IMAGE", None, "image of workers and of verification Jobs")
    flag("--worker-env", "IMAGEFLEET_WORKER_ENV", "[]", "their further environment variables, a JSON list")
    flag("--cache-type", "IMAGEFLEET_CACHE_TYPE", "emptyDir", "the node cache: emptyDir, hostPath or pvc")
    flag("--cache-path", "IMAGEFLEET_CACHE_PATH", "", "its folder on the nodes, for hostPath")
    flag("--cache-claim", "IMAGEFLEET_CACHE_CLAIM", "", "its claim in each pool's namespace, for pvc")
    flag("--cache-bytes", "IMAGEFLEET_CACHE_BYTES", "0", "the most it may hold, 0: nine tenths of it", int)
    flag(
        "--source-limit-bytes",
        "IMAGEFLEET_SOURCE_LIMIT_BYTES",
        str(SOURCE_LIMIT_BYTES),
        "the most bytes of one remote source",
        int,
    )
    flag(
        "--verify-service-account",
        "IMAGEFLEET_VERIFY_SERVICE_ACCOUNT",
        "",
        "ServiceAccount of verification Jobs, empty: the namespace's default",
    )
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
    flag(
        "--gateway-selector",
        "IMAGEFLEET_GATEWAY_SELECTOR",
        GATEWAY_SELECTOR,
        "labels of the gateways' pods in the Lease's namespace",
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
        workers = _worker_defaults(found)
    except ValueError as error:
        parser.error(str(error))
    if found.queue_workers < 1 or found.resync_seconds <= 0:
        parser.error("--queue-workers and --resync-seconds must be positive")
    if found.log_level not in ("debug", "info", "warning", "error"):
        parser.error(f"--log-level is {found.log_level!r}, not debug, info, warning or error")
    return Settings(
        workers=workers,
        caller_key_file=found.caller_key_file,
        lease=lease,
        host=found.host,
        port=found.port,
        queue_workers=found.queue_workers,
        resync_seconds=found.resync_seconds,
        gateway_selector=found.gateway_selector,
        log_level=found.log_level,
    )


def _worker_defaults(found: argparse.Namespace) -> WorkerDefaults:
    """Raises ValueError, saying which flag is wrong and how to mend it."""
    if found.cache_bytes < 0 or found.source_limit_bytes < 1:
        raise ValueError("--cache-bytes must not be negative, and --source-limit-bytes be positive")
    return WorkerDefaults(
        image=found.worker_image,
        cache=NodeCache(_cache_volume(found), found.cache_bytes, group=found.cache_type == "pvc"),
        source_limit_bytes=found.source_limit_bytes,
        env=_variables(found.worker_env),
        verify_account=found.verify_service_account,
    )


def _cache_volume(found: argparse.Namespace) -> Json:
    if found.cache_type == "hostPath":
        if not found.cache_path.startswith("/"):
            raise ValueError("--cache-type hostPath needs --cache-path, an absolute path on the nodes")
        # Not made where it lacks: the kubelet would make it root's, and workers are not root.
        return {"hostPath": {"path": found.cache_path, "type": "Directory"}}
    if found.cache_type == "pvc":
        if not found.cache_claim:
            raise ValueError("--cache-type pvc needs --cache-claim, a claim in each namespace with pools")
        return {"persistentVolumeClaim": {"claimName": found.cache_claim}}
    if found.cache_type == "emptyDir":
        return {"emptyDir": {}}
    raise ValueError(f"--cache-type is {found.cache_type!r}, not {', '.join(CACHE_TYPES)}")


def _variables(text: str) -> tuple[Json, ...]:
    try:
        variables = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--worker-env is no JSON: {error}") from error
    named = isinstance(variables, list) and all(isinstance(v, dict) and v.get("name") for v in variables)
    if not named:
        raise ValueError('--worker-env must be a JSON list such as [{"name": "A", "value": "1"}]')
    return tuple(variables)
