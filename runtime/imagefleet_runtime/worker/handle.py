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
from imagefleet_runtime.worker.importer import Importer, ImporterError
from imagefleet_runtime.worker.threads import in_thread

# A killed process is gone in milliseconds, unless a driver holds it.
KILL_SECONDS = 30.0


class EngineExitedError(Exception):
    """The engine process ended while an answer was awaited; the message says how."""


class EngineHungError(EngineExitedError):
    """The engine gave no answer in time, and was killed."""


class EngineStuckError(Exception):
    """The engine process cannot be killed: a driver holds it, and with it the accelerator."""


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
        self._hung = ""
        # A thread, for ``Connection`` needs a blocking descriptor and event loops make those they watch non-blocking.
        threading.Thread(target=self._read, daemon=True, name=f"engine-{process.pid}").start()

    @classmethod
    async def start(
        cls, importer: Importer, on_exit: Callable[[EngineHandle], None], seconds: float
    ) -> EngineHandle:
        """Fork an engine within ``seconds``. Raises ImporterError."""
        try:
            async with asyncio.timeout(seconds):
                process, connection = await in_thread(lambda: importer.fork(_run_engine))
        except TimeoutError:
            raise ImporterError(f"the importer forked no engine within {seconds:g} s") from None
        return cls(process, connection, on_exit)

    @property
    def exited(self) -> bool:
        return self._exited.is_set()

    async def ask(
        self, question: object, seconds: float, on_progress: Callable[[float], None] = lambda _done: None
    ) -> Any:
        """Send ``question`` and return the answer to it. One question at a time.

        Raises EngineExitedError; after ``seconds`` without an answer the engine is killed: EngineHungError, or
        EngineStuckError where that does not help.
        """
        self.tell(question)
        try:
            async with asyncio.timeout(seconds):
                return await self._answer(on_progress)
        except TimeoutError:
            self._hung = f"the engine process gave no answer within {seconds:.0f} s and was killed"
            await self._kill()
            raise EngineHungError(self.how_it_ended()) from None

    async def _answer(self, on_progress: Callable[[float], None]) -> Any:
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
        """End the process, at once: it holds nothing to save, and its end gives every byte back.

        Raises EngineStuckError.
        """
        self._stopping = True
        await self._kill()

    async def _kill(self) -> None:
        if not self._exited.is_set():
            self._process.kill()
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self._exited.wait()
        except TimeoutError:
            raise EngineStuckError(f"an engine process still runs {KILL_SECONDS:g} s after SIGKILL") from None

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
        if self._hung:
            return self._hung
        code = self._exit_code
        if code is None or code >= 0:
            return f"the engine process ended with exit code {code}"
        hint = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"the engine process was killed by {signal.Signals(-code).name}{hint}"
