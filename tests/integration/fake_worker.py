"""A worker that only says what it is told to hold: the operator's side of the contract, without torch.

Run as a pod's command. It holds every pinned model at once, and checks no token. Environment, all optional:
FAKE_ACCELERATOR: the name of the one device that it has; without one it cannot do float8. FAKE_FETCHED: percents
of every model that are fetched, which stays so.
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS: dict[str, Any] = {"models": [], "draining": False}


def report() -> dict[str, Any]:
    memory = {"totalBytes": 2**33, "source": "host"}
    accelerator = os.environ.get("FAKE_ACCELERATOR")
    return {
        "pod": os.environ["IMAGEFLEET_POD"],
        "draining": MODELS["draining"],
        "memory": memory,
        "models": [
            {
                "model": entry["model"],
                "pinned": entry["pinned"],
                "digest": entry["digest"],
                "loadSeconds": 1.5,
                **state(entry),
            }
            for entry in MODELS["models"]
        ],
        "devices": [{"index": 0, "name": accelerator, "accelerator": accelerator}] if accelerator else [],
    }


def state(entry: dict[str, Any]) -> dict[str, Any]:
    quantization = entry.get("pipeline", {}).get("quantization", "none")
    if quantization.startswith("float8") and "FAKE_ACCELERATOR" not in os.environ:
        message = f"{quantization} needs an accelerator with float8."
        return {"state": "Failed", "reason": "OptionUnsupported", "message": message}
    if "FAKE_FETCHED" in os.environ:
        fetched = int(os.environ["FAKE_FETCHED"])
        return {"state": "Loading", "stage": "fetch", "fetchedBytes": fetched * 10, "fetchTotalBytes": 1000}
    return {"state": "Resident" if entry["pinned"] else "Absent"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(report())

    def do_POST(self) -> None:
        """It is interrupted, the only thing that the operator posts."""
        MODELS["draining"] = True
        print("interrupted:", self.path, flush=True)
        self._answer({})

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
