"""Copies of callers' requests to an ImageModel that nobody waits for."""

from collections.abc import Mapping, Sequence

from . import work
from .figures import Name
from .relay import Trace
from .snapshot import Share


class Mirror:
    def keep(self, shares: Mapping[Name, Sequence[Share]]) -> None:
        """Which ImageModels get copies of a name's requests, and which percent; copies for others end.

        A model that is suspended is not among them.
        """

    def offer(self, request: work.Request, trace: Trace, status: int, code: str) -> None:
        """Copy a request whose caller has its reply, where it is its turn. Returns at once."""

    def close(self) -> None:
        """End all copies."""
