"""A worker that only says what it is told to hold: the operator's side of the contract, without torch.

Run as a pod's command. It holds every pinned model at once, and checks no token.
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS: dict[str, Any] = {"models": []}


def report() -> dict[str, Any]:
    models = [
        {
            "model": entry["model"],
            "state": "Resident" if entry["pinned"] else "Absent",
            "pinned": entry["pinned"],
            "digest": entry["digest"],
            "loadSeconds": 1.5,
        }
        for entry in MODELS["models"]
    ]
    memory = {"totalBytes": 2**33, "source": "host"}
    return {
        "pod": os.environ["IMAGEFLEET_POD"],
        "draining": False,
        "memory": memory,
        "models": models,
        "devices": [],
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(report())

    def do_PUT(self) -> None:
        MODELS.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(report())

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer((os.environ["IMAGEFLEET_HOST"], 8000), Handler).serve_forever()
