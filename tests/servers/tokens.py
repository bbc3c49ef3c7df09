"""The token server of a registry: who knows the password gets a token for what he asks."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers.hub import Handler, WebServer
from tests.servers.start import PASSWORD, USER

SERVICE, ISSUER, KEY_ID = "registry.tests", "tokens.tests", "key-1"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class TokenServer(WebServer):
    """``lifetime``: of its tokens, in seconds."""

    def __init__(self) -> None:
        super().__init__(TokenHandler)
        self.key = ec.generate_private_key(ec.SECP256R1())

    def auth(self, folder: Path) -> dict[str, object]:
        """``auth`` of a registry that believes this server."""
        jwk = {
            **json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key())),
            "kid": KEY_ID,
            "alg": "ES256",
        }
        (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
        return {
            "token": {
                "realm": f"{self.endpoint}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "jwks": str(folder / "jwks.json"),
                "signingalgorithms": ["ES256"],
            }
        }

    def token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": USER,
            "iat": now,
            "nbf": now - 5,
            "exp": now + 300,
            "jti": f"{now}",
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": KEY_ID})


class TokenHandler(Handler):
    server: TokenServer

    def answer(self, path: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if path != "/token" or self.headers.get("Authorization") != LOGIN:
            self.reply(401, b"{}")
        else:
            self.reply(200, json.dumps({"token": self.server.token(query["scope"][0])}).encode())
