"""Where in a name's traffic a request falls: a place from 0 to 100, of which each ImageModel has its part.

Drawing at random would give a canary of 5 % between 3.6 % and 6.4 % of 1,000 requests (two standard deviations). Here
the parts are dealt out instead, so that each has what it is due, to about one request for each gateway.
"""

import hashlib
from collections.abc import Callable, Iterable

from .snapshot import Route

Header = tuple[bytes, bytes]

# How much chance has a say in whose turn it is (requests). Without it, callers who send large and small requests by
# turns would have all large ones in one half of a split by halves.
_SHUFFLE = 1.0
# Gateways begin at different turns, so that what they owe at any time is not the same (requests).
_START = 100


class Ledger:
    """What each part of the traffic is still due, in requests. All of it sums to zero."""

    __slots__ = ("_due", "_random", "cells")

    def __init__(self, cells: tuple[tuple[float, float], ...], random: Callable[[], float]) -> None:
        self.cells = cells
        self._due = [0.0] * len(cells)
        self._random = random
        for _ in range(int(random() * _START)):
            self.turn()

    def turn(self) -> int:
        """The part whose turn it is: the one that is due most."""
        due, chosen, most = self._due, 0, float("-inf")
        for index, (_, width) in enumerate(self.cells):
            due[index] += width / 100
            rank = due[index] + _SHUFFLE * self._random()
            if rank > most:
                chosen, most = index, rank
        due[chosen] -= 1
        return chosen

    def place(self) -> float:
        start, width = self.cells[self.turn()]
        return start + width * self._random()


class Split:
    """Deals out the places of one gateway's requests, by route."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._ledgers: dict[str, Ledger] = {}

    def place(self, route: Route, user: str | None = None, headers: Iterable[Header] = ()) -> float:
        """A request's place, 0 to 100, for all its attempts: dealt out, or where the route is sticky and the request
        has the value, the caller's own.
        """
        if route.stickiness is not None:
            value = _sticky_value(route, user, headers)
            if value:
                return sticky_place(value, route.full_name)
        cells = route.cells
        if len(cells) == 1:
            return self._random() * 100
        ledger = self._ledgers.get(route.full_name)
        if ledger is None or ledger.cells != cells:
            ledger = self._ledgers[route.full_name] = Ledger(cells, self._random)
        return ledger.place()

    def keep(self, routes: Iterable[Route]) -> None:
        """Forget routes that are gone."""
        names = {route.full_name for route in routes}
        for gone in self._ledgers.keys() - names:
            del self._ledgers[gone]


def _sticky_value(route: Route, user: str | None, headers: Iterable[Header]) -> bytes:
    stickiness = route.stickiness
    assert stickiness is not None
    if stickiness.user:
        return (user or "").encode()
    return next((value for name, value in headers if name == stickiness.header), b"")


def sticky_place(value: bytes, name: str) -> float:
    """The place of all requests with this value to this name (NAMESPACE/NAME): 0 to under 100, the same on every
    gateway.

    The first 8 bytes of BLAKE2b of the name, a zero byte and the value, as a fraction of 2^64.
    Worked example: "alice" to "art/shapes" is at 98.90.
    """
    digest = hashlib.blake2b(name.encode() + b"\0" + value, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100
