"""Who calls: the operator and the gateway show a short-lived EdDSA token made for this pool."""

from __future__ import annotations

import time

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from imagefleet_runtime.worker import errors

OPERATOR = "imagefleet-operator"
GATEWAY = "imagefleet-gateway"
MAX_TOKEN_SECONDS = 600
# Clocks of two nodes may differ; NTP keeps them well within this.
LEEWAY_SECONDS = 30


class Authenticator:
    """Checks tokens against one public key and one audience (``NAMESPACE/POOL``).

    Raises ValueError where ``public_key`` is no Ed25519 public key in PEM.
    """

    def __init__(self, public_key: str, audience: str) -> None:
        try:
            key = load_pem_public_key(public_key.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError("the caller's public key is not a PEM public key") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the caller's public key is not an Ed25519 key")
        self._key = key
        self._audience = audience

    def check(self, authorization: str | None, *callers: str) -> str:
        """Who sent this ``Authorization`` header. Raises ApiError: 401, or 403 for one who is not in ``callers``."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise errors.invalid_token("send Authorization: Bearer TOKEN")
        caller = self._verify(token.strip())
        if caller not in callers:
            raise errors.wrong_caller(f"{caller} may not call this; only {' and '.join(callers)}")
        return caller

    def _verify(self, token: str) -> str:
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["EdDSA"],
                audience=self._audience,
                issuer=[OPERATOR, GATEWAY],
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "aud", "iat", "exp"]},
            )
        except jwt.PyJWTError as error:
            # PyJWT's messages speak of claims and never contain the token.
            raise errors.invalid_token(f"the token was refused: {error}") from None
        if claims["exp"] - time.time() > MAX_TOKEN_SECONDS + LEEWAY_SECONDS:
            raise errors.invalid_token(f"the token ends more than {MAX_TOKEN_SECONDS} seconds from now")
        return str(claims["iss"])
