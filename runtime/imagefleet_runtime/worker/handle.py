"""The supervisor's end of an engine process."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from imagefleet_runtime.worker import messages
from imagefleet_runtime.worker.importer import Importer, ImporterError
from imagefleet_runtime.worker.threads import in_thread

# A killed process is gone in milliseconds, unless a driver holds it.
KILL_SECONDS = 30.0

Answer = (
    messages.Preview
    | messages.Paused
    | messages.Drawn
    | messages.Failed
    | messages.Cancelled
    | messages.Checkpoint
)


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
        self._orders: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._loading: asyncio.Queue[object] = asyncio.Queue()  # answers to Load; None: the process ended
        self._drawings: dict[int, Callable[[Answer], None]] = {}
        self._exited = asyncio.Event()
        self._exit_code: int | None = None
        self._stopping = False
        self._hung = ""
        self.on_step: Callable[[messages.Step], None] = lambda _step: None
        # Threads, for ``Connection`` needs a blocking descriptor and event loops make those they watch non-blocking.
        # One to write as well: an engine reads between two steps, and until then a large picture fills the pipe.
        self._writer = threading.Thread(target=self._write, daemon=True, name=f"to-engine-{process.pid}")
        self._writer.start()
        threading.Thread(target=self._read, daemon=True, name=f"from-engine-{process.pid}").start()

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

    async def load(
        self, order: messages.Load, seconds: float, on_stage: Callable[[messages.Stage], None]
    ) -> messages.Loaded | messages.LoadFailed:
        """Load a pipeline; each stage of that may take ``seconds``.

        Raises EngineExitedError; after too long a silence the engine is killed: EngineHungError, or EngineStuckError
        where that does not help.
        """
        self._orders.put(order)
        while True:
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._loading.get()
            except TimeoutError:
                await self.kill_hung(seconds)
                raise EngineHungError(self.how_it_ended()) from None
            match answer:
                case messages.Stage():
                    on_stage(answer)
                case messages.Loaded() | messages.LoadFailed():
                    return answer
                case _:
                    raise EngineExitedError(self.how_it_ended())

    def draw(self, order: messages.Draw, on_answer: Callable[[Answer], None]) -> None:
        """Draw one picture. ``on_answer`` gets its previews and then how it ended, ``engine_crashed`` included."""
        self._drawings[order.id] = on_answer
        self._orders.put(order)

    def cancel(self, drawing: int) -> None:
        """Stop at the next step; the drawing is answered for all that."""
        self._orders.put(messages.Cancel(drawing))

    def interrupt(self, drawing: int) -> None:
        """Stop at the next step, with a checkpoint; the drawing is answered for all that, drawn where it cannot be
        stopped."""
        self._orders.put(messages.Interrupt(drawing))

    def pause(self, drawing: int) -> None:
        """Leave it where it is from the next step on; answered with Paused, unless it ends before that."""
        self._orders.put(messages.Pause(drawing))

    def go_on(self, drawing: int) -> None:
        """Go on with what was paused."""
        self._orders.put(messages.Continue(drawing))

    async def kill_hung(self, seconds: float) -> None:
        """End a process that said nothing for ``seconds``; its owner learns of it. Raises EngineStuckError."""
        self._hung = f"the engine process gave no answer within {seconds:.0f} s and was killed"
        await self._kill()

    async def stop(self) -> None:
        """End the process, at once: it holds nothing to save, and its end gives every byte back.

        Raises EngineStuckError.
        """
        self.end()
        await self._kill()

    def end(self) -> None:
        """As ``stop``, without waiting for it."""
        self._stopping = True
        self._signal()

    def _signal(self) -> None:
        if not self._exited.is_set():
            self._process.kill()

    async def _kill(self) -> None:
        self._signal()
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self._exited.wait()
        except TimeoutError:
            raise EngineStuckError(f"an engine process still runs {KILL_SECONDS:g} s after SIGKILL") from None

    def _write(self) -> None:
        """Runs in a thread: hand the engine its orders, until None."""
        while (order := self._orders.get()) is not None:
            try:
                self._connection.send(order)
            except OSError:
                return  # the engine is gone; its end is reported elsewhere

    def _read(self) -> None:
        """Runs in a thread: hand on all answers, then the exit code."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._in_loop(self._take, self._connection.recv())
        self._process.join()
        self._orders.put(None)
        self._writer.join()  # before the descriptor is closed, whose number may soon be another's
        self._in_loop(self._ended, self._process.exitcode)

    def _in_loop(self, call: Callable[..., None], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
            self._loop.call_soon_threadsafe(call, argument)

    def _take(self, answer: object) -> None:
        match answer:
            case messages.Step():
                self.on_step(answer)
            case messages.Preview() | messages.Paused():
                self._drawings[answer.id](answer)
            case messages.Drawn() | messages.Failed() | messages.Cancelled() | messages.Checkpoint():
                self._drawings.pop(answer.id)(answer)
            case _:
                self._loading.put_nowait(answer)

    def _ended(self, exit_code: int | None) -> None:
        self._exit_code = exit_code
        self._connection.close()
        self._process.close()
        self._exited.set()
        self._loading.put_nowait(None)
        if not self._stopping:
            self._on_exit(self)
        how = f"{self.how_it_ended()}; the model is being loaded again"
        for drawing, on_answer in list(self._drawings.items()):
            on_answer(messages.Failed(drawing, "engine_crashed", how))
        self._drawings.clear()

    def how_it_ended(self) -> str:
        if self._hung:
            return self._hung
        code = self._exit_code
        if code is None or code >= 0:
            return f"the engine process ended with exit code {code}"
        hint = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"the engine process was killed by {signal.Signals(-code).name}{hint}"
