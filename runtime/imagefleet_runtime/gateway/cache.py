"""Replies that callers got before, for entries whose fallback they are."""

import hashlib
from collections import OrderedDict

import msgspec

from .parameters import Parameters
from .resources import Key
from .work import Request

# What an entry takes beside its body, roughly (bytes).
_OVERHEAD_BYTES = 1024
# What changes neither the picture nor how it is written. `model` may be said in two ways; the route's name counts.
_IRRELEVANT = {
    "model",
    "user",
    "safety_identifier",
    "priority",
    "deadline_seconds",
    "stream",
    "partial_images",
}
_FIELDS = tuple(name for name in Parameters.__struct_fields__ if name not in _IRRELEVANT)

_encoder = msgspec.msgpack.Encoder()


class Kept(msgspec.Struct, frozen=True):
    """A reply, and by what it was drawn."""

    key: Key
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body) + _OVERHEAD_BYTES


def request_key(request: Request, name: str) -> bytes:
    """What tells a request to `name` (NAMESPACE/NAME) from any that may have another reply: 32 bytes of BLAKE2b over
    its parameters and pictures.
    """
    pictures = (request.image, request.mask, request.control_image)
    data = [b"" if picture is None else picture.data for picture in pictures]
    asked = [getattr(request.parameters, field) for field in _FIELDS]
    lengths = [len(piece) for piece in data]
    digest = hashlib.blake2b(
        _encoder.encode([name, asked, request.strength, request.control_scale, lengths]), digest_size=32
    )
    for piece in data:
        digest.update(piece)
    return digest.digest()


class Cache:
    """Replies to requests that gave a seed, up to a number of bytes; those that were asked for longest ago go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._replies: OrderedDict[bytes, Kept] = OrderedDict()
        """The one that was asked for longest ago at the front."""

    def put(self, request: Request, name: str, key: Key, body: bytes) -> None:
        """Keep a reply, where the request says which picture it wants and there is room for it at all."""
        kept = Kept(key, body)
        if not can_be_kept(request) or kept.size > self._limit:
            return
        digest = request_key(request, name)
        former = self._replies.pop(digest, None)
        self._size += kept.size - (former.size if former else 0)
        self._replies[digest] = kept
        while self._size > self._limit:
            self._size -= self._replies.popitem(last=False)[1].size

    def get(self, request: Request, name: str) -> Kept | None:
        if not can_be_kept(request):
            return None
        digest = request_key(request, name)
        kept = self._replies.get(digest)
        if kept is not None:
            self._replies.move_to_end(digest)
        return kept


def can_be_kept(request: Request) -> bool:
    return request.parameters.seed is not None and not request.parameters.stream
