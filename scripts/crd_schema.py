"""From pydantic's JSON schema to the structural schema that a CustomResourceDefinition takes."""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_RULES = "x-kubernetes-validations"
_REF_PREFIX = "#/$defs/"
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]


def spec_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a spec: no references, no titles, no nulls, defaults kept."""
    generated = model.model_json_schema()
    return _structural(generated, generated.get("$defs", {}))


def status_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a status, without defaults: what the operator does not write is absent."""
    return _without_defaults(spec_schema(model))


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    flat = _flatten(schema, definitions)
    for key in ("title", "$defs"):
        flat.pop(key, None)
    if flat.get("default", ...) is None:
        del flat["default"]
    if "exclusiveMinimum" in flat:  # JSON Schema's number is a flag of `minimum` in OpenAPI 3.0
        flat |= {"minimum": flat["exclusiveMinimum"], "exclusiveMinimum": True}
    if "properties" in flat:
        flat["properties"] = {
            name: _structural(value, definitions) for name, value in flat["properties"].items()
        }
    if "additionalProperties" in flat:
        flat["additionalProperties"] = _structural(flat["additionalProperties"], definitions)
    if "items" in flat:
        # A default inside a list would make `kubectl apply` and Argo CD see a difference for ever, since they
        # compare lists as a whole: there, what an absent field means is for the reader to know.
        flat["items"] = _without_defaults(_structural(flat["items"], definitions))
    return flat


def _flatten(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema with its reference and its alternatives written out; its own keys win over what they add."""
    if "$ref" in schema:
        referred = definitions[schema["$ref"].removeprefix(_REF_PREFIX)]
        return _flatten(_overlay(referred, _without(schema, "$ref")), definitions)
    if "anyOf" not in schema:
        return dict(schema)
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    rest = _without(schema, "anyOf")
    if choices == _INT_OR_STRING:
        return rest | {"anyOf": _INT_OR_STRING, "x-kubernetes-int-or-string": True}
    if len(choices) != 1:
        raise ValueError(f"a structural schema has no place for the alternatives {choices}")
    return _flatten(_overlay(choices[0], rest), definitions)


def _overlay(base: Schema, over: Schema) -> Schema:
    merged = base | over
    if _RULES in base and _RULES in over:
        merged[_RULES] = base[_RULES] + over[_RULES]
    return merged


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


def _without_defaults(schema: Schema) -> Schema:
    bare = _without(schema, "default")
    if "properties" in bare:
        bare["properties"] = {name: _without_defaults(value) for name, value in bare["properties"].items()}
    if "items" in bare:
        bare["items"] = _without_defaults(bare["items"])
    return bare
