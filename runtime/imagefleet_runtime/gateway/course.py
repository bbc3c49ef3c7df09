"""A caller's stream over all the workers that draw it: where one gives the request up, another one goes on."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType

from .errors import ApiError, read_error, server_error
from .events import error_event
from .relay import Relay
from .upstream import Reply

# As of workers, whose stream this is at other times: proxies give up on a connection that is silent for a minute or so.
KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"


class Course:
    """Leaving its `with` block ends what is on a worker."""

    def __init__(self, relay: Relay, go_on: Callable[[Relay], Awaitable[Reply | Relay]]) -> None:
        """`go_on`: what another worker answers; it raises ApiError where there is none."""
        self.failure: ApiError | None = None
        """How the stream failed after its first event."""
        self.fault: ApiError | None = None
        """The same, where it is the worker's whose stream the last one was."""
        self._relay: Relay | None = relay
        self._go_on = go_on

    def __enter__(self) -> "Course":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Whole events as they arrive, each once. Where no worker finishes, the last one is an error that says so."""
        while (relay := self._relay) is not None:
            async with contextlib.aclosing(relay.events()) as events:
                async for event in events:
                    yield event
            if relay.interruption is None:
                self.failure = self.fault = relay.failure
                return
            self._leave()
            going_on = asyncio.create_task(self._another(relay))
            try:
                while not (await asyncio.wait((going_on,), timeout=KEEP_ALIVE_SECONDS))[0]:
                    yield KEEP_ALIVE
            finally:
                going_on.cancel()  # without effect once it is done
            going_on.result()
            if self.failure is not None:
                yield error_event(self.failure)

    async def _another(self, relay: Relay) -> None:
        """Have another worker go on with what one gave up: its stream is the next, or the failure is set."""
        try:
            reply = await self._go_on(relay)
        except ApiError as error:
            self.failure = error
            return
        if isinstance(reply, Relay):
            self._relay = reply
            return
        code, message = read_error(reply.body)
        self.failure = server_error(reply.status, code, message)
