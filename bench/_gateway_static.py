"""The gateway as it is in production, but for a fleet that is set once: `python -m bench._gateway_static PORT
BACKEND`.
"""

import sys

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from imagefleet_runtime.gateway.main import server, server_config, write_line
from imagefleet_runtime.gateway.resources import ModelView, PoolModel, PoolView, Worker
from imagefleet_runtime.gateway.service import Gateway
from imagefleet_runtime.gateway.settings import read_settings
from imagefleet_runtime.gateway.tokens import Tokens

# Four workers, so that choosing among them is part of the work.
WORKERS = 4


def set_fleet(gateway: Gateway, backend: int) -> None:
    workers = [
        Worker(f"uid-{i}", "bench", "pool", f"w{i}", "127.0.0.1", backend, (("shapes-1", True),))
        for i in range(WORKERS)
    ]
    pool = PoolView("bench", "pool", 0, (PoolModel("shapes", (("shapes-1", 100.0),)),))
    model = ModelView(
        namespace="bench",
        name="shapes-1",
        steps=20,
        guidance_scale=5.0,
        size=(512, 512),
        max_megapixels=1.1,
        max_steps=50,
        max_images=4,
        capabilities=None,
        adapters=(),
        license=None,
        stalled=None,
        rate=0.011,
        load_seconds=1.7,
    )
    gateway.fleet.replace("pods", {(w.namespace, w.pod): w for w in workers})
    gateway.fleet.replace("inferencepools", {(pool.namespace, pool.name): pool})
    gateway.fleet.replace("imagemodels", {(model.namespace, model.name): model})


async def serve(port: int, backend: int) -> None:
    settings = read_settings(
        {"IMAGEFLEET_CALLER_KEY_FILE": "unused", "IMAGEFLEET_HOST": "127.0.0.1", "IMAGEFLEET_PORT": str(port)}
    )
    gateway = Gateway(settings, Tokens(Ed25519PrivateKey.generate()), write_line)
    set_fleet(gateway, backend)
    await server(server_config(gateway.app, settings)).serve()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
