"""A worker that answers every request at once with the same picture: `python -m bench._gateway_fake_worker
PORT`.
"""

import asyncio
import base64
import json
import random
import sys
from typing import cast

import httptools
import uvloop

# A 128x128 PNG of a drawing is about this large (bytes).
PICTURE_BYTES = 9_000


def reply() -> bytes:
    picture = base64.b64encode(random.Random(1).randbytes(PICTURE_BYTES)).decode()
    body = json.dumps(
        {
            "created": 1_763_800_000,
            "background": "opaque",
            "output_format": "png",
            "quality": "medium",
            "size": "512x512",
            "model": "shapes-1",
            "data": [{"b64_json": picture, "seed": 42}],
        }
    ).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "x-imagefleet-model: shapes-1\r\nx-imagefleet-seed: 42\r\nx-imagefleet-work-seconds: 0\r\n"
        "x-imagefleet-rate: 0.011\r\nx-imagefleet-queue-seconds: 0\r\nx-imagefleet-run-seconds: 0\r\n\r\n"
    )
    return head.encode() + body


REPLY = reply()


class _Protocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(REPLY)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Protocol, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
