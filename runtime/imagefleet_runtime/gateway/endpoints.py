"""The two image endpoints: which encodings their bodies may have, and how each is read."""

from collections.abc import Awaitable, Callable, Mapping

from .bodies import Body
from .errors import ApiError
from .forms import Form
from .images import read_edit_form, read_edit_json, read_generation
from .work import Request

Reader = Callable[[Body], Awaitable[Request]]

_JSON = b"application/json"
_FORM = b"multipart/form-data"


async def _generation(body: Body) -> Request:
    return read_generation(await _json(body))


async def _json(body: Body) -> bytearray:
    collected = bytearray()
    await body.read(collected.extend)
    return collected


async def _edit_json(body: Body) -> Request:
    return read_edit_json(await _json(body))


async def _edit_form(body: Body) -> Request:
    form = Form(body.head.content_type)
    await body.read(form.feed)
    return read_edit_form(form.finish())


ENDPOINTS: Mapping[str, Mapping[bytes, Reader]] = {
    "/v1/images/generations": {_JSON: _generation},
    "/v1/images/edits": {_FORM: _edit_form, _JSON: _edit_json},
}


async def read(readers: Mapping[bytes, Reader], body: Body) -> Request:
    """Read a request's body. Raises ApiError and CallerGoneError."""
    kind = body.head.content_type.partition(b";")[0].strip().lower()
    reader = readers.get(kind)
    if reader is None:
        kinds = " or ".join(known.decode() for known in readers)
        raise ApiError(415, "unsupported_media_type", f"The body must be sent with Content-Type: {kinds}.")
    return await reader(body)
