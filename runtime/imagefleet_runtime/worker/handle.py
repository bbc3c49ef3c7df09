"""The supervisor's end of an engine process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from imagefleet_runtime.worker import messages
from imagefleet_runtime.worker.importer import Importer
from imagefleet_runtime.worker.threads import in_thread


class EngineExitedError(Exception):
    """The engine process ended while an answer was awaited; the message says how."""


def _run_engine(connection: Connection) -> None:
    from imagefleet_runtime.worker import engine  # imports torch: only in the fork

    engine.main(connection)


class EngineHandle:
    """One engine. ``on_exit`` is called once, from the event loop, when the process has ended by itself."""

    def __init__(
        self, process: ForkServerProcess, connection: Connection, on_exit: Callable[[EngineHandle], None]
    ) -> None:
        self._process = process
        self._connection = connection
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._exited = asyncio.Event()
        self._exit_code: int | None = None
        self._stopping = False
        # A thread, for ``Connection`` needs a blocking descriptor and event loops make those they watch non-blocking.
        threading.Thread(target=self._read, daemon=True, name=f"engine-{process.pid}").start()

    @classmethod
    async def start(cls, importer: Importer, on_exit: Callable[[EngineHandle], None]) -> EngineHandle:
        """Fork an engine. Raises ImporterError."""
        process, connection = await in_thread(lambda: importer.fork(_run_engine))
        return cls(process, connection, on_exit)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exited(self) -> bool:
        return self._exited.is_set()

    async def ask(self, question: object, on_progress: Callable[[float], None] = lambda _done: None) -> Any:
        """Send ``question`` and return the answer to it. One question at a time. Raises EngineExitedError."""
        self.tell(question)
        while True:
            answer = await self._answers.get()
            if answer is None:
                self._answers.put_nowait(None)  # for whoever asks next
                raise EngineExitedError(self.how_it_ended())
            if not isinstance(answer, messages.Progress):
                return answer
            on_progress(answer.done)

    def tell(self, message: object) -> None:
        """Send what needs no answer. To an engine that is gone, nothing: its end is reported elsewhere."""
        if not self._exited.is_set():
            try:
                self._connection.send(message)
            except (BrokenPipeError, ConnectionResetError):
                return

    async def stop(self) -> None:
        """End the process, at once: it holds nothing to save, and its end gives every byte back."""
        self._stopping = True
        if not self._exited.is_set():
            self._process.kill()
        await self._exited.wait()

    def _read(self) -> None:
        """Runs in the thread: hand on all answers, then the exit code."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._in_loop(self._answers.put_nowait, self._connection.recv())
        self._process.join()
        self._in_loop(self._ended, self._process.exitcode)

    def _in_loop(self, call: Callable[..., None], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
            self._loop.call_soon_threadsafe(call, argument)

    def _ended(self, exit_code: int | None) -> None:
        self._exit_code = exit_code
        self._connection.close()
        self._process.close()
        self._exited.set()
        self._answers.put_nowait(None)
        if not self._stopping:
            self._on_exit(self)

    def how_it_ended(self) -> str:
        code = self._exit_code
        if code is None or code >= 0:
            return f"the engine process ended with exit code {code}"
        hint = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"the engine process was killed by {signal.Signals(-code).name}{hint}"
