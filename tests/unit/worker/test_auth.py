import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from imagefleet_runtime.worker.auth import GATEWAY, OPERATOR, Authenticator
from imagefleet_runtime.worker.errors import ApiError

KEY = Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


AUTHENTICATOR = Authenticator(pem(KEY), "team-a/thumbnails")


def token(*, key: Any = KEY, algorithm: str = "EdDSA", without: str | None = None, **changes: Any) -> str:
    now = time.time()
    claims = {"iss": GATEWAY, "aud": "team-a/thumbnails", "iat": now, "exp": now + 300} | changes
    claims.pop(without or "", None)
    return jwt.encode(claims, key, algorithm=algorithm)


@pytest.mark.parametrize("caller", [OPERATOR, GATEWAY])
def test_both_callers_are_known_by_their_token(caller: str) -> None:
    assert AUTHENTICATOR.check(f"Bearer {token(iss=caller)}", OPERATOR, GATEWAY) == caller


def test_a_caller_may_not_do_what_is_the_others() -> None:
    with pytest.raises(ApiError) as refused:
        AUTHENTICATOR.check(f"Bearer {token(iss=GATEWAY)}", OPERATOR)
    assert (refused.value.status, refused.value.code) == (403, "wrong_caller")


@pytest.mark.parametrize(
    "header",
    {
        "no header": None,
        "empty": "",
        "another scheme": "Basic abc",
        "no token": "Bearer ",
        "not a token": "Bearer abc",
        "another key": f"Bearer {token(key=Ed25519PrivateKey.generate())}",
        "another algorithm": f"Bearer {token(key='x' * 32, algorithm='HS256')}",
        "no signature": f"Bearer {token(key=None, algorithm='none')}",
        "another pool": f"Bearer {token(aud='team-a/other')}",
        "another issuer": f"Bearer {token(iss='someone')}",
        "expired": f"Bearer {token(exp=time.time() - 60)}",
        "from the future": f"Bearer {token(iat=time.time() + 3600)}",
        "lives too long": f"Bearer {token(exp=time.time() + 3600)}",
        "no expiry": f"Bearer {token(without='exp')}",
        "no issue time": f"Bearer {token(without='iat')}",
        "no issuer": f"Bearer {token(without='iss')}",
        "no audience": f"Bearer {token(without='aud')}",
    }.items(),
    ids=lambda row: row[0],
)
def test_a_bad_token_is_refused_and_not_repeated(header: tuple[str, str | None]) -> None:
    with pytest.raises(ApiError) as refused:
        AUTHENTICATOR.check(header[1], OPERATOR, GATEWAY)
    assert (refused.value.status, refused.value.code) == (401, "invalid_token")
    assert "ey" not in refused.value.message


@pytest.mark.parametrize("key", ["", "not a key", pem(generate_private_key(SECP256R1()))])
def test_a_key_that_is_not_ed25519_is_refused_at_start(key: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        Authenticator(key, "team-a/thumbnails")
