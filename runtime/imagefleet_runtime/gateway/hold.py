"""Requests that wait until the fleet can serve them: first come, first served, no polling."""

import asyncio
from collections.abc import Callable


class HoldFullError(Exception):
    """As many requests wait as may."""


class Hold:
    """A bounded line of requests, each with a test that says whether its wait is over."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, served: Callable[[], bool], seconds: float) -> bool:
        """Wait until `served()` after a change; False after `seconds`.

        Raises HoldFullError at once where the line is full.
        """
        if len(self._waiting) >= self._limit:
            raise HoldFullError
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = served
        try:
            await asyncio.wait_for(future, max(0.0, seconds))
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(future, None)
        return True

    def changed(self) -> None:
        """Something changed that may end waits. Those that end go on in the order in which they came."""
        for future, served in list(self._waiting.items()):
            if not future.done() and served():
                del self._waiting[future]
                future.set_result(None)
