"""The processes that the gateway's benchmark runs: the fake worker and the three proxies in front of it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import progress
from tests.cluster.controlplane import free_ports

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
# Beside LiteLLM what lets it run at its best: without OpenTelemetry's packages it tries to import them again, and
# fails, on every request (5 ms of CPU); with httptools, uvicorn parses HTTP in C.
LITELLM = (
    "litellm[proxy]==1.106.2",
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp==1.45.2",
    "httptools==0.9.0",
)
START_SECONDS = 90
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

HAPROXY_CONFIG = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option http-keep-alive
    http-reuse always
frontend public
    bind 127.0.0.1:{port}
    default_backend workers
backend workers
    balance leastconn
    server w1 127.0.0.1:{backend}
"""

LITELLM_CONFIG = """
model_list:
- model_name: shapes
  litellm_params: {{model: openai/shapes, api_base: "http://127.0.0.1:{backend}/v1", api_key: unused}}
  model_info: {{mode: image_generation}}
litellm_settings: {{set_verbose: false, num_retries: 0}}
"""


@dataclass(frozen=True)
class System:
    """A server under test: its port and its main process."""

    name: str
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children so far, user and system."""
        return sum(_stat(pid, 13) + _stat(pid, 14) for pid in self._pids()) / _TICKS

    def resident_bytes(self) -> int:
        return sum(_stat(pid, 23) for pid in self._pids()) * _PAGE

    def _pids(self) -> list[int]:
        pids = [self.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
                pids.extend(map(int, children.split()))
        return pids


def _stat(pid: int, field: int) -> int:
    """A field of /proc/PID/stat, counted from 0; 0 where the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    # The second field is the command's name, which may hold spaces: count from its closing bracket.
    return int(text.rpartition(")")[2].split()[field - 2])


def install_debian(*packages: str) -> None:
    """Install what is missing by apt-get, where we may. What stays missing is left out of the comparison."""
    missing = [package for package in packages if shutil.which(package) is None]
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    progress(f"installing {' '.join(missing)} (Debian)")
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", *missing]):
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=90)


def install_litellm() -> Path:
    """LiteLLM in an environment of its own; the path of its command."""
    folder = BUILD / "litellm"
    command = folder / "bin" / "litellm"
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text(encoding="ascii") == " ".join(LITELLM):
        return command
    progress(f"installing {LITELLM[0]} under {folder.relative_to(ROOT)}")
    uv = str(ROOT / ".tools/bin/uv") if (ROOT / ".tools/bin/uv").exists() else "uv"
    python = str(folder / "bin/python")
    for arguments in (
        [uv, "venv", "-q", "--clear", "--python", "3.11", str(folder)],
        [uv, "pip", "install", "-q", "--compile-bytecode", "--python", python, *LITELLM],
    ):
        subprocess.run(arguments, check=True, stdout=sys.stderr, timeout=150)
    stamp.write_text(" ".join(LITELLM), encoding="ascii")
    return command


@contextlib.contextmanager
def process(name: str, port: int, command: Sequence[str], **env: str) -> Iterator[System]:
    """A server process that ends, with all its children, when the context does."""
    log = BUILD / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"} | env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _wait_until_open(name, port, child, log)
            yield System(name, port, child.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait_until_open(name: str, port: int, child: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{name} did not start; see {log}")


@contextlib.contextmanager
def systems() -> Iterator[dict[str, System]]:
    """The fake worker as `direct`, and every proxy that can be had, each in front of it."""
    BUILD.mkdir(parents=True, exist_ok=True)
    install_debian("haproxy", "wrk")
    litellm_command = install_litellm()
    with contextlib.ExitStack() as stack:
        (backend,) = free_ports(1)
        started = {
            "direct": stack.enter_context(
                process("direct", backend, [sys.executable, "-m", "bench._gateway_fake_worker", str(backend)])
            )
        }

        def start(name: str, command: Sequence[str], port: int, **env: str) -> None:
            progress(f"starting {name}")
            started[name] = stack.enter_context(process(name, port, command, **env))

        (port,) = free_ports(1)
        start("imagefleet", [sys.executable, "-m", "bench._gateway_static", str(port), str(backend)], port)
        haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if haproxy is None:
            progress("haproxy is not installed and cannot be: it is left out")
        else:
            (port,) = free_ports(1)
            start(
                "haproxy",
                [haproxy, "-db", "-f", str(_write("haproxy.cfg", HAPROXY_CONFIG, port, backend))],
                port,
            )
        (port,) = free_ports(1)
        config = str(_write("litellm.yaml", LITELLM_CONFIG, port, backend))
        start(
            "litellm",
            # One process, as of the others: more of them on the same cores only get in each other's way.
            [
                str(litellm_command),
                "--config",
                config,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--num_workers",
                "1",
            ],
            port,
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            # Without keys to check on a loopback port: its fastest way.
            LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
            LITELLM_LOG="ERROR",
            LITELLM_MODE="PRODUCTION",
        )
        yield started


def _write(name: str, template: str, port: int, backend: int) -> Path:
    path = BUILD / name
    path.write_text(template.format(port=port, backend=backend), encoding="ascii")
    return path
