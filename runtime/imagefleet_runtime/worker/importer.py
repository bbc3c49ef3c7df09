"""The process that has imported torch and diffusers once, and from which every engine is forked in milliseconds.

It is the standard library's fork server. It must never touch CUDA: a CUDA context does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import select
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

PRELOAD = "imagefleet_runtime.worker.preload"
# Given to the importer, and so to every engine, where the pod does not say otherwise.
ENVIRONMENT = {
    # Ask NVML, not CUDA, whether there is a GPU: safe before a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # As NVML numbers devices; CUDA's own order begins with the fastest, and another one than NVML was asked about.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Threads that spin at a barrier while another process holds their core made a 0.04 s drawing take 20 s.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class ImporterError(Exception):
    """The importer could not import what engines need; the message holds the reason."""


class Importer:
    """Starts the fork server and processes in it. One per supervisor."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._pidfd: int | None = None

    def launch(self) -> None:
        """Start importing, in the other process; returns at once."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._context.set_forkserver_preload([PRELOAD])
        forkserver.ensure_running()

    def wait_until_ready(self) -> None:
        """Block until all is imported. Raises ImporterError where an import failed."""
        process, connection = self.fork(_probe)
        try:
            pid, error = connection.recv()
        except EOFError:
            raise ImporterError("the importer ended before it could fork a process") from None
        finally:
            connection.close()
        process.join()
        if error is not None:
            raise ImporterError(error)
        self._pidfd = os.pidfd_open(pid)

    def fork(self, target: Callable[..., None], *arguments: Any) -> tuple[ForkServerProcess, Connection]:
        """Run ``target(connection, *arguments)`` in a new process. Blocks until the importer has forked it.

        Raises ImporterError where the importer is gone.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=target, args=(theirs, *arguments), daemon=True)
        try:
            process.start()
        except (OSError, EOFError) as error:
            ours.close()
            raise ImporterError(f"the importer does not answer: {error}") from error
        finally:
            theirs.close()
        return process, ours

    @property
    def alive(self) -> bool:
        """Whether the importer runs. A process's descriptor becomes readable when the process ends."""
        if self._pidfd is None:
            return False
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)


def _probe(connection: Connection) -> None:
    """Runs in a fork of the importer: report the importer's process id and what failed to import."""
    from imagefleet_runtime.worker import preload  # in the importer's memory already, where all is well

    connection.send((os.getppid(), preload.error))
