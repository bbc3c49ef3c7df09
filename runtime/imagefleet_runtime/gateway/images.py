"""Bodies of `POST /v1/images/generations` and `POST /v1/images/edits`, read into requests.

Pure: no clock, no randomness, no I/O.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from .errors import ApiError, invalid
from .parameters import (
    DESCRIPTIONS,
    MAX_CONTROL_SCALE,
    MAX_PROMPT_CHARACTERS,
    Parameters,
    check,
    explain,
    missing,
    unknown,
)
from .pictures import Buffer, Picture, read_data_url, read_picture, read_text
from .work import Request


class Generation(Parameters, kw_only=True):
    style: str | None = None
    control_image: str | None = None
    control_scale: Annotated[float, Meta(ge=0, le=MAX_CONTROL_SCALE)] | None = None


class Edit(Parameters, kw_only=True):
    """What an edit takes beside its pictures."""

    strength: Annotated[float, Meta(gt=0, le=1)] | None = None
    input_fidelity: str | None = None


class Reference(msgspec.Struct, forbid_unknown_fields=True):
    """A picture in OpenAI's JSON form."""

    image_url: str | None = None
    file_id: str | None = None


class EditJson(Edit, kw_only=True):
    images: list[Reference] | None = None
    mask: Reference | None = None


_P = TypeVar("_P", bound=Parameters)
_generation = msgspec.json.Decoder(Generation)
_edit = msgspec.json.Decoder(EditJson)
_IMAGE_PARTS = ("image", "image[]")
# The openai client writes a list of objects so. Which scale belongs to which name is lost where not all have one.
_ADAPTER_NAMES, _ADAPTER_SCALES = "adapters[][name]", "adapters[][scale]"
_FORM_FIELDS = (*Edit.__struct_fields__, "image", "mask")
# A prompt of the most characters, each of four bytes.
_MAX_TEXT_BYTES = 4 * MAX_PROMPT_CHARACTERS


def read_generation(body: Buffer) -> Request:
    """Read and check a body, as far as no model is needed.

    Raises ApiError (400) with `param` and one of `invalid_json`, `invalid_type`, `invalid_value`,
    `unknown_parameter`, `missing_required_parameter`, `unsupported_parameter`, `invalid_image`.
    """
    asked = _decode(_generation, body)
    if asked.control_image is None:
        if asked.control_scale is not None:
            raise invalid("invalid_value", "control_scale", "'control_scale' needs a 'control_image'.")
        return Request(parameters=asked)
    control = read_text("control_image", asked.control_image)
    return Request(parameters=asked, control_image=control, control_scale=asked.control_scale)


def read_edit_json(body: Buffer) -> Request:
    """Read and check a body in JSON. Raises ApiError as read_generation does."""
    asked = _decode(_edit, body)
    if not asked.images:
        raise missing("images")
    _check_one("images", len(asked.images))
    mask = None if asked.mask is None else _referenced("mask", asked.mask)
    return _edit_request(asked, _referenced("images", asked.images[0]), mask)


def read_edit_form(parts: Mapping[str, list[bytearray]]) -> Request:
    """Check the parts of a form. Raises ApiError as read_generation does."""
    fields: dict[str, Any] = {}
    pictures: dict[str, list[bytearray]] = {"image": [], "mask": []}
    for name, values in parts.items():
        if name in _IMAGE_PARTS:
            pictures["image"] += values
        elif name == "mask":
            pictures["mask"] = values
        elif name in (_ADAPTER_NAMES, _ADAPTER_SCALES):
            fields["adapters"] = _bracketed_adapters(parts)
        else:
            fields[name] = _field(name, values)
    try:
        asked = msgspec.convert(fields, Edit, strict=False)
    except msgspec.ValidationError as error:
        raise explain(str(error), _FORM_FIELDS) from None
    check(asked)
    image, mask = (_uploaded(name, files) for name, files in pictures.items())
    if image is None:
        raise missing("image")
    return _edit_request(asked, image, mask)


def _decode(decoder: msgspec.json.Decoder[_P], body: Buffer) -> _P:
    try:
        asked = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise explain(str(error), decoder.type.__struct_fields__) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("invalid_json", None, f"The body is not valid JSON: {error}.") from None
    check(asked)
    return asked


def _edit_request(asked: Edit, image: Picture, mask: Picture | None) -> Request:
    return Request(parameters=asked, image=image, mask=mask, strength=asked.strength)


def _check_one(param: str, count: int) -> None:
    if count > 1:
        raise invalid("unsupported_parameter", param, f"'{param}': {count} pictures; a request edits one.")


def _referenced(param: str, reference: Reference) -> Picture:
    if reference.image_url is None or reference.file_id is not None:
        raise invalid(
            "unsupported_parameter",
            param,
            f"'{param}' must give its picture as image_url: there are no stored files to name by file_id.",
        )
    return read_data_url(param, reference.image_url)


def _uploaded(param: str, files: list[bytearray]) -> Picture | None:
    if not files:
        return None
    _check_one(param, len(files))
    if files[0].startswith((b"http:", b"https:", b"data:")):
        return read_data_url(param, files[0].decode(errors="replace"))
    return read_picture(param, files[0])


def _field(name: str, values: list[bytearray]) -> Any:
    """A form's text, or what its JSON says where the parameter is a list."""
    if name not in _FORM_FIELDS:
        raise unknown(name, _FORM_FIELDS)
    if len(values) > 1:
        raise invalid("invalid_value", name, f"'{name}' is given {len(values)} times: give it once.")
    text = _text(name, values[0])
    if name != "adapters":
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise invalid("invalid_value", name, f"'{name}' must be JSON: {DESCRIPTIONS[name]}.") from None


def _text(name: str, value: bytearray) -> str:
    if len(value) > _MAX_TEXT_BYTES:
        raise invalid("invalid_value", name, f"Invalid value for '{name}': it must be {DESCRIPTIONS[name]}.")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid("invalid_value", name, f"'{name}' is not valid UTF-8.") from None


def _bracketed_adapters(parts: Mapping[str, list[bytearray]]) -> list[dict[str, str]]:
    names, scales = parts.get(_ADAPTER_NAMES, []), parts.get(_ADAPTER_SCALES, [])
    if scales and len(scales) != len(names):
        raise _unpaired()
    read = [{"name": _text("adapters", name)} for name in names]
    for adapter, scale in zip(read, scales, strict=False):
        adapter["scale"] = _text("adapters", scale)
    return read


def _unpaired() -> ApiError:
    return invalid(
        "invalid_value",
        "adapters",
        "In a form, give each of the 'adapters' a scale or none of them, or give them all as one field of JSON.",
    )
