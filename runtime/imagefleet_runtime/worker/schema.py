"""Bodies in JSON, read strictly. A refusal names the first bad field and never repeats what was in it."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from imagefleet_runtime.worker import errors

# Kind of bad value that pydantic reports for a field that the schema does not have.
UNKNOWN_FIELD = "extra_forbidden"
# Kinds of bad values that fields of their own report: pictures, checkpoints. The code of the answer, too.
INVALID_IMAGE = "invalid_image"
CHECKPOINT_UNUSABLE = "checkpoint_unusable"


class Base(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Body = TypeVar("Body", bound=BaseModel)


def parse(schema: type[Body], text: bytes) -> Body:
    """``text`` (JSON) as ``schema``. Raises ApiError 400 that names the first bad field and what it should be."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> errors.ApiError:
    # Never the input: a prompt must not come back in an error, which callers log.
    first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in first["loc"])) or None
    if first["type"] == UNKNOWN_FIELD:
        return errors.invalid("unknown_parameter", f"unknown parameter {param!r}", param)
    code = first["type"] if first["type"] in (INVALID_IMAGE, CHECKPOINT_UNUSABLE) else "invalid_value"
    return errors.invalid(code, f"{param or 'the body'}: {first['msg']}", param)
