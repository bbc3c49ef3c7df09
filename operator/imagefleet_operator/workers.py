"""The HTTP client of the workers, and the tokens that it shows them (``docs/contract.md``)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from imagefleet_operator.plan.cluster_types import Pod
from imagefleet_operator.plan.types import Json, Report
from imagefleet_operator.pod_http import CallError, PodClient
from imagefleet_operator.store.reports import InvalidReportError, read_report

PORT = 8000
ISSUER = "imagefleet-operator"
TOKEN_SECONDS = 600
"""Lifetime of a token; a worker refuses a longer one."""
SPARE_SECONDS = 60
"""A token is not shown in its last minute: it must still hold when it arrives, on a clock that differs."""
GET_SECONDS = 3.0
PUT_SECONDS = 10.0
REPORT_BYTES = 1_000_000
"""A longer answer is none: the image of a worker is its pool's choice, the operator's memory is everyone's."""


class CallerKeyError(Exception):
    """The caller key is missing or no Ed25519 key in PEM (PKCS #8)."""


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key of the callers. Raises CallerKeyError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CallerKeyError(f"no caller key in {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CallerKeyError(
            f"the caller key in {path} is no Ed25519 key: make one with openssl genpkey -algorithm ed25519"
        )
    return key


def public_pem(key: Ed25519PrivateKey) -> str:
    """The half that workers get."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Tokens:
    """One token per pool, the same until a minute before its end."""

    def __init__(self, key: Ed25519PrivateKey, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._tokens: dict[str, tuple[str, float]] = {}

    def of(self, namespace: str, pool: str) -> str:
        """A token that workers of that pool accept."""
        audience, now = f"{namespace}/{pool}", self._clock()
        token, ends = self._tokens.get(audience, ("", 0.0))
        if now >= ends - SPARE_SECONDS:
            ends = now + TOKEN_SECONDS
            claims = {"iss": ISSUER, "aud": audience, "iat": int(now), "exp": int(ends)}
            token = jwt.encode(claims, self._key, algorithm="EdDSA")
            self._tokens = {a: t for a, t in self._tokens.items() if t[1] > now} | {audience: (token, ends)}
        return token


class WorkerClient:
    """Calls to workers. All raise CallError."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._pods = PodClient(connections=128)

    async def close(self) -> None:
        """Close all connections."""
        await self._pods.close()

    async def report(self, pod: Pod) -> Report:
        """What the worker says of itself."""
        return await self._call(pod, "GET", "/v1/worker", None, GET_SECONDS)

    async def put_models(self, pod: Pod, policy: Sequence[Json]) -> Report:
        """Give the worker its whole policy; what it says of itself then."""
        return await self._call(pod, "PUT", "/v1/worker/models", {"models": list(policy)}, PUT_SECONDS)

    async def interrupt(self, pod: Pod) -> None:
        """Have the worker end what it draws, and hand it over."""
        path = "/v1/worker/interrupt"
        headers = {"Authorization": f"Bearer {self._tokens.of(pod.namespace, pod.pool)}"}
        await self._pods.call(
            "POST",
            (pod.ip, PORT),
            path,
            seconds=PUT_SECONDS,
            most_bytes=REPORT_BYTES,
            body={},
            headers=headers,
        )

    async def _call(self, pod: Pod, verb: str, path: str, body: Json | None, seconds: float) -> Report:
        headers = {"Authorization": f"Bearer {self._tokens.of(pod.namespace, pod.pool)}"}
        answer = await self._pods.call(
            verb, (pod.ip, PORT), path, seconds=seconds, most_bytes=REPORT_BYTES, body=body, headers=headers
        )
        try:
            return read_report(answer)
        except InvalidReportError as error:
            raise CallError(f"{verb} {path}: {type(error).__name__}", str(error)) from error
