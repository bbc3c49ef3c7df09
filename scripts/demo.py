"""`make demo`: a real control plane here, the chart, two manifests, one picture.

It leaves everything running until Ctrl-C; with DEMO_ONCE=1 it ends after the picture. DEMO_FOLDER and DEMO_OUT
override where the cluster and the picture go.
"""

from __future__ import annotations

import base64
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI
from PIL import Image

from shapes.scorer import PASS, score
from tests.cluster.cluster import DEFAULT_FOLDER, REPOSITORY, Cluster
from tests.cluster.fleet import IMAGE_MOUNTS, Fleet
from tests.cluster.node.config import NodeSpec

QUICKSTART = REPOSITORY / "examples" / "quickstart"
PROMPT = "a red circle above a blue square on white"
NODES = (NodeSpec("node-1", gpus=2), NodeSpec("node-2", gpus=2))


class Stages:
    """Tells what is going on, and how long each stage took."""

    def __init__(self, setup: float | None) -> None:
        self.seconds: dict[str, float] = {}
        if setup is not None:
            self.seconds["set-up"] = setup
            print(f"  set-up: dependencies, demo models, local cluster ... {setup:.1f} s", flush=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"  {name} ...", end="", flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        print(f" {self.seconds[name]:.1f} s", flush=True)


def main() -> int:
    folder = Path(os.environ.get("DEMO_FOLDER", DEFAULT_FOLDER))
    out = Path(os.environ.get("DEMO_OUT", REPOSITORY / "out"))
    print("imagefleet demo: from two manifests to a picture", flush=True)
    setup = os.environ.get("DEMO_SETUP_SECONDS")
    stages = Stages(float(setup) if setup else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        fleet = _start(stages, folder)
        picture = _draw(stages, fleet, out)
        print(f"  in all: {sum(stages.seconds.values()):.1f} s\n\npicture: {picture}", flush=True)
        print(f"asked for: {PROMPT}\nit shows: {_shown(picture)}", flush=True)
        if not os.environ.get("DEMO_ONCE"):
            _tell(fleet)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("\nending the cluster ...", flush=True)
    except Exception as error:  # a person reads this: the message says more than where it was raised
        print(f"\nfailed: {error}\nlogs: {out}/demo-logs", file=sys.stderr)
        _keep_logs(folder, out)
        return 1
    finally:
        Cluster(folder).stop()
    return 0


def _start(stages: Stages, folder: Path) -> Fleet:
    with stages.stage("start the control plane and two nodes with two accelerators each"):
        Cluster(folder).stop()
        fleet = Fleet(Cluster.start(folder, nodes=NODES, image_mounts=IMAGE_MOUNTS))
    with stages.stage("helm install imagefleet"):
        fleet.install()
    with stages.stage("kubectl apply -f examples/quickstart/"):
        fleet.cluster.kubectl("apply", "-f", str(QUICKSTART))
    with stages.stage("wait until the pool is Ready"):
        _wait(fleet.cluster, "imagemodels.imagefleet.dev/shapes-1")
        _wait(fleet.cluster, "inferencepools.imagefleet.dev/pictures")
    return fleet


def _wait(cluster: Cluster, name: str) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", name, "--timeout=180s", namespace="default")


def _draw(stages: Stages, fleet: Fleet, out: Path) -> Path:
    client = OpenAI(base_url=f"{fleet.gateways()[0]}/v1", api_key="unused")
    with stages.stage("draw one picture with the openai client"):
        answer = client.images.generate(model="shapes", prompt=PROMPT, size="64x64", extra_body={"seed": 1})
    if not answer.data or not answer.data[0].b64_json:
        raise RuntimeError("the gateway's answer holds no picture")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "picture.png"
    path.write_bytes(base64.b64decode(answer.data[0].b64_json))
    return path


def _shown(picture: Path) -> str:
    """What the scorer finds in the picture, part by part."""
    parts = score(Image.open(picture).convert("RGB"), PROMPT).parts
    return ", ".join(f"{name} {'right' if value >= PASS else 'wrong'}" for name, value in parts.items())


def _tell(fleet: Fleet) -> None:
    address = fleet.gateways()[0]
    cluster = fleet.cluster
    print(
        f"""
image API: {"  ".join(f"{one}/v1" for one in fleet.gateways())}

In another terminal:

  export KUBECONFIG={cluster.kubeconfig} PATH={cluster.layout.bin}:$PATH

  kubectl get imagefleet
  kubectl scale inferencepools.imagefleet.dev/pictures --replicas=3
  curl -s {address}/v1/images/generations -H 'content-type: application/json' \\
    -d '{{"model": "shapes", "prompt": "{PROMPT}", "n": 2}}' | head -c 300

Ctrl-C ends it all.""",
        flush=True,
    )


def _keep_logs(folder: Path, out: Path) -> None:
    """The cluster's folder goes away with it; what explains the failure stays."""
    for log in sorted((folder / "logs").rglob("*.log")):
        kept = out / "demo-logs" / log.relative_to(folder / "logs")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(log.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
