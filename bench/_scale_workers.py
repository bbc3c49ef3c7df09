"""5,000 workers in one process: whoever calls port 8000 of an address of its own in 127.0.0.0/8 is answered by another
one. `python -m bench._scale_workers PORT`: how often they were asked is told on 127.0.0.1:PORT.

They say what a worker with an accelerator says, hold what they are told to at once, and check no token.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any, cast

import httptools
import uvloop

PORT = 8000
MEMORY_BYTES = 80 * 2**30

policies: dict[str, list[dict[str, Any]]] = {}
calls: Counter[str] = Counter()
dice = random.Random(1)


def report(address: str) -> dict[str, Any]:
    """What the worker at an address says of itself: its readings move as those of a device do."""
    device = {
        "index": 0,
        "name": "Bench",
        "accelerator": "Bench",
        "utilization": round(dice.uniform(0.4, 0.8), 2),
        "memoryUsedBytes": MEMORY_BYTES // 2,
        "memoryTotalBytes": MEMORY_BYTES,
        "temperatureCelsius": dice.randint(55, 65),
        "powerWatts": dice.randint(380, 440),
    }
    return {
        "pod": address,
        "draining": False,
        "workSeconds": round(dice.uniform(0, 5), 2),
        "memory": {"totalBytes": MEMORY_BYTES, "source": "nvml"},
        "models": [_model(entry) for entry in policies.get(address, ())],
        "devices": [device],
    }


def _model(entry: dict[str, Any]) -> dict[str, Any]:
    measured = {
        "state": "Resident",
        "bytes": 5 * 2**30,
        "memoryBytes": 6 * 2**30,
        "secondsPerMegapixelStep": 0.011 * dice.uniform(0.97, 1.03),
        "loadSeconds": 1.7,
        "modes": ["text-to-image", "image-to-image", "inpainting"],
        "sizes": [{"size": "512x512", "maxBatch": 4, "secondsPerStep": 0.05}],
    }
    told = {key: entry[key] for key in ("model", "pinned", "digest")}
    return told | (measured if entry["pinned"] else {"state": "Absent"})


class _Protocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._address = transport.get_extra_info("sockname")[0]
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        verb = self._parser.get_method().decode()
        calls[verb] += 1
        if verb == "PUT":
            policies[self._address] = json.loads(self._body)["models"]
        self._body = b""
        _answer(self._transport, report(self._address))


class _Counts(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, _data: bytes) -> None:
        _answer(self._transport, dict(calls))
        self._transport.close()


def _answer(transport: asyncio.Transport, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    transport.write(head.encode() + data)


async def serve(port: int) -> None:
    """Until it is ended."""
    loop = asyncio.get_running_loop()
    await loop.create_server(_Counts, "127.0.0.1", port)
    workers = await loop.create_server(_Protocol, "0.0.0.0", PORT, backlog=4096)
    await workers.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
