"""What both resources share: names of the API, the base of every model, metadata, conditions, reading."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

GROUP = "imagefleet.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

# `P-workers` is a Service and `M-verify-<hash of 10>` a label of its pods: both have room for 63 characters.
MAX_NAME_LENGTH = 45

RuleReason = Literal["FieldValueForbidden", "FieldValueRequired"]

Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class ApiModel(BaseModel):
    """A frozen part of a resource: camelCase in the cluster, snake_case in Python.

    Fields that this version does not know are ignored, so that a newer schema can be rolled back.
    """

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_dict(self) -> dict[str, Any]:
        """The part as it is written to the cluster: camelCase, what is None left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rule(
    expression: str, message: str, *, path: str | None = None, reason: RuleReason | None = None
) -> dict[str, JsonValue]:
    """One CEL rule of the schema.

    `path` is the field that the refusal names, relative to the rule's own; `reason` says what is wrong with
    its value where that is more than that it is invalid.
    """
    options = {"fieldPath": path, "reason": reason}
    return {
        "rule": expression,
        "message": message,
        **{key: value for key, value in options.items() if value is not None},
    }


def rules(*items: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Rules as `json_schema_extra` of a field or a model takes them."""
    return {"x-kubernetes-validations": list(items)}


def name_length_rule(kind: str) -> dict[str, JsonValue]:
    """The rule on the length of a resource's name, which its children's names and labels contain."""
    return rule(
        f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
        f"metadata.name of an {kind} has at most {MAX_NAME_LENGTH} characters, since its children's names "
        "and labels hold it: make a shorter name",
    )


def list_map(*keys: str) -> dict[str, JsonValue]:
    """A list whose items are told apart by `keys`, so that several writers can each own some of them."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class InvalidReason(enum.StrEnum):
    """Why a resource of the cluster cannot be read."""

    INVALID_METADATA = "InvalidMetadata"
    """It has no name, namespace or uid, or one of another type: it did not come from an API server."""
    INVALID_SPEC = "InvalidSpec"
    """Its spec does not fit this version's schema, for example because an older schema let it in."""


class InvalidResource(Exception):  # noqa: N818 - it reports a state of the cluster, not a failure of ours
    """A resource of the cluster that this version cannot read; it concerns that resource alone.

    `reason` and `message` are meant for a condition and say which field is wrong and why.
    """

    def __init__(self, reason: InvalidReason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of a resource's metadata that the operator reads."""

    name: str
    namespace: str
    uid: str
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    """When deletion was asked for; None while it was not."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def deleting(self) -> bool:
        """Whether its deletion was asked for."""
        return self.deletion_timestamp is not None

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> "Metadata":
        """Read `obj["metadata"]`. Raises InvalidResource."""
        raw = obj.get("metadata") or {}
        try:
            return cls(
                name=_text(raw, "name"),
                namespace=_text(raw, "namespace"),
                uid=_text(raw, "uid"),
                generation=int(raw.get("generation", 0)),
                resource_version=str(raw.get("resourceVersion", "")),
                creation_timestamp=_time(raw.get("creationTimestamp")),
                deletion_timestamp=_time(raw.get("deletionTimestamp")),
                labels=dict(raw.get("labels") or {}),
                annotations=dict(raw.get("annotations") or {}),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidResource(InvalidReason.INVALID_METADATA, f"metadata: {error}") from error


class Condition(ApiModel):
    """One condition, as `kubectl wait --for=condition=TYPE` reads it."""

    type: str = Field(description="What the condition is about, for example Ready.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(
        description="Whether it holds: True, False or Unknown."
    )
    observed_generation: Int64 = Field(
        description="The metadata.generation of the resource that the condition was found for.", ge=0
    )
    last_transition_time: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(description="Why, in one CamelCase word for programs.", min_length=1, max_length=1024)
    message: str = Field(
        description="Why, in a sentence for people; what to do where something is wrong.", max_length=32768
    )


class Status(ApiModel):
    """What every status holds."""

    observed_generation: Int64 = Field(
        default=-1,
        description="The metadata.generation that this status was written for; -1 until the operator first "
        "saw the resource.",
        ge=-1,
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="What is so at present, one entry for each type.",
        json_schema_extra=list_map("type"),
    )

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, None where it was not written."""
        return next((found for found in self.conditions if found.type == kind), None)


SpecT = TypeVar("SpecT", bound=ApiModel)
StatusT = TypeVar("StatusT", bound=Status)


def read_spec(model: type[SpecT], obj: Mapping[str, Any]) -> SpecT:
    """Read `obj["spec"]`. Raises InvalidResource, naming each field that is wrong."""
    try:
        return model.model_validate(obj.get("spec") or {})
    except ValidationError as error:
        raise InvalidResource(InvalidReason.INVALID_SPEC, _describe(error)) from error


def read_status(model: type[StatusT], obj: Mapping[str, Any]) -> StatusT:
    """Read `obj["status"]`. One that cannot be read is no opinion: it counts as never written."""
    try:
        return model.model_validate(obj.get("status") or {})
    except ValidationError:
        return model()


def _describe(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"spec{_path(problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}" for problem in problems
    )


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is missing")
    return value


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
