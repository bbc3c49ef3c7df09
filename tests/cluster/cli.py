"""`python -m tests.cluster build|up|down`, behind the make targets of the same names."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import build
from .cluster import DEFAULT_FOLDER, Cluster
from .node.config import NodeSpec


def main() -> int:
    options = _parser().parse_args()
    if options.command == "build":
        build.programs()
    elif options.command == "down":
        Cluster(options.folder).stop()
    else:
        _up(options)
    return 0


def _up(options: argparse.Namespace) -> None:
    started = time.monotonic()
    nodes = [NodeSpec(f"node-{n}", gpus=options.gpus) for n in range(1, options.nodes + 1)]
    cluster = Cluster.start(options.folder, nodes=nodes, image_mounts=dict(options.image_mount))
    print(
        f"cluster ready after {time.monotonic() - started:.1f} s, in {cluster.layout.root}", file=sys.stderr
    )
    print("to use it (kubectl and helm included):", file=sys.stderr)
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"export PATH={cluster.layout.bin}:$PATH")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the programs, where the cache does not hold them")
    up = commands.add_parser("up", help="start a cluster, or find the one that runs")
    down = commands.add_parser("down", help="end the cluster and everything in it")
    for command in (up, down):
        command.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    up.add_argument("--nodes", type=int, default=1)
    up.add_argument("--gpus", type=int, default=8, help="accelerators per node")
    up.add_argument(
        "--image-mount",
        type=_image_mount,
        action="append",
        default=[],
        metavar="/IN/CONTAINER=/ON/HOST",
        help="a directory of the host that every container sees, read-only",
    )
    return parser


def _image_mount(text: str) -> tuple[str, str]:
    target, separator, source = text.partition("=")
    if not separator or not target.startswith("/") or not Path(source).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not /IN/CONTAINER=/EXISTING/DIRECTORY")
    return target, str(Path(source).resolve())
