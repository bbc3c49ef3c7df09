from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from imagefleet_runtime.gateway.settings import SettingsError, read_settings
from imagefleet_runtime.gateway.tokens import KeyFileError, Tokens, read_key

from tests.unit.gateway.builders import KEY

PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
GOOD = {"IMAGEFLEET_CALLER_KEY_FILE": "/key/caller.pem"}


def test_defaults() -> None:
    settings = read_settings(GOOD)
    assert (settings.host, settings.port, settings.hold_seconds) == ("0.0.0.0", 8080, 120.0)
    assert settings.batch_hold_seconds == 300.0
    assert settings.ahead_seconds == 3.0
    assert settings.caller_key_file == "/key/caller.pem"
    assert settings.upstream_seconds == 600.0
    assert settings.body_bytes == 256 * 1024 * 1024
    assert settings.cache_bytes == 64 * 1024 * 1024
    assert settings.pod


BAD = {
    "no key": ({"IMAGEFLEET_CALLER_KEY_FILE": " "}, "IMAGEFLEET_CALLER_KEY_FILE is not set"),
    "a port as word": ({"IMAGEFLEET_PORT": "http"}, "IMAGEFLEET_PORT must be a whole number from 0 to 65535"),
    "a port too high": ({"IMAGEFLEET_PORT": "65536"}, "not '65536'"),
    "half a port": ({"IMAGEFLEET_PORT": "80.5"}, "IMAGEFLEET_PORT must be a whole number"),
    "a wait of nan": (
        {"IMAGEFLEET_HOLD_SECONDS": "nan"},
        "IMAGEFLEET_HOLD_SECONDS must be a number from 0 to 3600",
    ),
    "a negative wait": ({"IMAGEFLEET_HOLD_SECONDS": "-1"}, "IMAGEFLEET_HOLD_SECONDS must be"),
    "a negative head start": ({"IMAGEFLEET_AHEAD_SECONDS": "-1"}, "IMAGEFLEET_AHEAD_SECONDS must be"),
    "a negative limit": ({"IMAGEFLEET_HOLD_LIMIT": "-1"}, "IMAGEFLEET_HOLD_LIMIT must be"),
    "no room for one body": ({"IMAGEFLEET_BODY_BYTES": "1000"}, "must be a whole number from 67108864 to"),
    "a negative cache": ({"IMAGEFLEET_CACHE_BYTES": "-1"}, "IMAGEFLEET_CACHE_BYTES must be"),
    "no such level": ({"IMAGEFLEET_LOG_LEVEL": "loud"}, "IMAGEFLEET_LOG_LEVEL must be one of debug, info"),
    "no time for a worker": ({"IMAGEFLEET_UPSTREAM_SECONDS": "0"}, "IMAGEFLEET_UPSTREAM_SECONDS must be"),
}


@pytest.mark.parametrize(("env", "want"), BAD.values(), ids=BAD.keys())
def test_refuses(env: dict[str, str], want: str) -> None:
    with pytest.raises(SettingsError, match=want):
        read_settings(GOOD | env)


def test_a_token_says_who_calls_whom_and_not_for_long() -> None:
    header = Tokens(KEY, now=lambda: 1_000.0).bearer("art", "thumbs")
    scheme, _, token = header.decode().partition(" ")
    claims = jwt.decode(
        token, KEY.public_key(), algorithms=["EdDSA"], audience="art/thumbs", options={"verify_exp": False}
    )
    assert scheme == "Bearer"
    assert claims["iss"] == "imagefleet-gateway"
    assert claims["exp"] - claims["iat"] <= 600


def test_a_token_is_used_until_a_minute_before_its_end() -> None:
    now = 1_000.0
    tokens = Tokens(KEY, now=lambda: now)
    first = tokens.bearer("art", "thumbs")
    now += 509
    assert tokens.bearer("art", "thumbs") == first
    assert tokens.bearer("art", "other") != first
    now += 2
    assert tokens.bearer("art", "thumbs") != first


def test_reads_a_key(tmp_path: Path) -> None:
    path = tmp_path / "caller.pem"
    path.write_bytes(PEM)
    assert read_key(str(path)).public_key() == KEY.public_key()


ELLIPTIC = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "want"),
    [(b"secret-stuff", "not an unencrypted PEM"), (ELLIPTIC, "not an Ed25519 key"), (None, "No such file")],
    ids=["not a key", "another kind of key", "no file"],
)
def test_refuses_a_key_without_showing_it(tmp_path: Path, content: bytes | None, want: str) -> None:
    path = tmp_path / "caller.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=want) as caught:
        read_key(str(path))
    assert "secret-stuff" not in str(caught.value)
