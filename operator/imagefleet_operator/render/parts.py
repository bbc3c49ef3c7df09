"""What the pods of workers, verification Jobs and DaemonSets have in common: volumes, mounts, environment."""

from collections.abc import Iterable, Sequence

from imagefleet_operator.plan.prepull import PrePullSpec
from imagefleet_operator.plan.types import Json
from imagefleet_operator.plan.workers import NodeCache, VerifySpec, WorkersSpec

CACHE_FOLDER = "/cache"
USER = 65532
Mounted = tuple[Json, str, bool]
"""A volume, the folder that it is mounted at, and whether it is read-only there."""


def pod_parts(
    spec: WorkersSpec | VerifySpec | PrePullSpec, own_env: Iterable[Json] = (), *, shared_memory: bool = False
) -> Json:
    """The values `volumes`, `mounts`, `env` and `security_context` of a template."""
    mounted = [*_claims(spec.claims), *_secrets(spec.secrets), *_cache(spec.cache)]
    if shared_memory:
        mounted.append(({"name": "shm", "emptyDir": {"medium": "Memory"}}, "/dev/shm", False))  # noqa: S108
    mounted.append(({"name": "tmp", "emptyDir": {}}, "/tmp", False))  # noqa: S108 - the pod's own
    return {
        "volumes": [volume for volume, _, _ in mounted],
        "mounts": [_mount(*each) for each in mounted],
        "env": _env([*own_env, *_cache_env(spec), *_COMMON_ENV], spec.env),
        "security_context": _security_context(spec.cache),
    }


_COMMON_ENV = ({"name": "HF_HUB_OFFLINE", "value": "1"}, {"name": "HOME", "value": "/tmp"})  # noqa: S108


def _claims(claims: Sequence[str]) -> list[Mounted]:
    return [
        (
            {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
            f"/pvc/{claim}",
            True,
        )
        for n, claim in enumerate(claims)
    ]


def _secrets(secrets: Sequence[str]) -> list[Mounted]:
    """Optional: one that is missing would keep the pod from starting, and with it the models that need none. Whoever
    reads it says so in better words."""
    return [
        (
            {"name": f"secret-{n}", "secret": {"secretName": secret, "optional": True}},
            f"/secrets/{secret}",
            True,
        )
        for n, secret in enumerate(secrets)
    ]


def _cache(cache: NodeCache | None) -> list[Mounted]:
    return [] if cache is None else [({"name": "cache", **cache.volume}, CACHE_FOLDER, False)]


def _mount(volume: Json, folder: str, read_only: bool) -> Json:
    return {"name": volume["name"], "mountPath": folder} | ({"readOnly": True} if read_only else {})


def _cache_env(spec: WorkersSpec | VerifySpec | PrePullSpec) -> list[Json]:
    if spec.cache is None:
        return []
    return [
        {"name": "IMAGEFLEET_CACHE_DIR", "value": CACHE_FOLDER},
        {"name": "IMAGEFLEET_CACHE_BYTES", "value": str(spec.cache.limit_bytes)},
        {"name": "IMAGEFLEET_SOURCE_LIMIT_BYTES", "value": str(spec.source_limit_bytes)},
    ]


def _env(ours: Iterable[Json], further: Iterable[Json]) -> list[Json]:
    """Ours, then the further ones; of two of a name the further one: server-side apply takes no name twice."""
    return list({variable["name"]: variable for variable in (*ours, *further)}.values())


def _security_context(cache: NodeCache | None) -> Json:
    context: Json = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if cache is not None and cache.group:
        context |= {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}
    return context
