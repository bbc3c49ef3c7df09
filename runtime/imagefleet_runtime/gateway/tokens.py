"""Tokens that the gateway shows to workers."""

import time
from collections.abc import Callable
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ISSUER = "imagefleet-gateway"
# A worker accepts at most 10 minutes; half a minute is left for clocks that differ.
LIFETIME_SECONDS = 570
RENEW_BEFORE_SECONDS = 60


class KeyFileError(ValueError):
    """The key file cannot be used; the message says why and never what is in it."""


def read_key(path: str) -> Ed25519PrivateKey:
    """The caller's private key from a PEM file (PKCS #8). Raises KeyFileError."""
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except OSError as error:
        raise KeyFileError(f"IMAGEFLEET_CALLER_KEY_FILE {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise KeyFileError(
            f"IMAGEFLEET_CALLER_KEY_FILE {path}: not an unencrypted PEM (PKCS #8) key"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"IMAGEFLEET_CALLER_KEY_FILE {path}: not an Ed25519 key")
    return key


class Tokens:
    """One token per pool, used until a minute before its end."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now
        self._cache: dict[tuple[str, str], tuple[float, bytes]] = {}

    def bearer(self, namespace: str, pool: str) -> bytes:
        """The value of the Authorization header for a pool's workers."""
        now = self._now()
        until, header = self._cache.get((namespace, pool), (0.0, b""))
        if now < until:
            return header
        expires = now + LIFETIME_SECONDS
        claims = {"iss": ISSUER, "aud": f"{namespace}/{pool}", "iat": int(now), "exp": int(expires)}
        header = b"Bearer " + jwt.encode(claims, self._key, algorithm="EdDSA").encode()
        # Pools come and go; what has expired is dropped whenever a token is made.
        self._cache = {k: v for k, v in self._cache.items() if now < v[0]}
        self._cache[namespace, pool] = (expires - RENEW_BEFORE_SECONDS, header)
        return header
