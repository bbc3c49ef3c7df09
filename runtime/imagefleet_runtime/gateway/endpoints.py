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
    collected = bytearray()
    await body.read(collected.extend)
    return read_generation(collected)


async def _edit_json(body: Body) -> Request:
    collected = bytearray()
    await body.read(collected.extend)
    return read_edit_json(collected)


async def _edit_form(body: Body) -> Request:
    form = Form(body.head.content_type)
    await body.read(form.feed)
    return read_edit_form(form.finish())


ENDPOINTS: Mapping[str, Mapping[bytes, Reader]] = {
    "/v1/images/generations": {_JSON: _generation},
    "/v1/images/edits": {_FORM: _edit_form, _JSON: _edit_json},
}


def reader(readers: Mapping[bytes, Reader], content_type: bytes) -> Reader:
    """What reads a body of this kind. Raises ApiError (415)."""
    found = readers.get(content_type.partition(b";")[0].strip().lower())
    if found is None:
        kinds = " or ".join(kind.decode() for kind in readers)
        raise ApiError(415, "unsupported_media_type", f"The body must be sent with Content-Type: {kinds}.")
    return found
