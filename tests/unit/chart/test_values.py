"""The chart's values: defaults, schema and README say the same."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scripts.chart_readme import CHART, leaves, table, with_table

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def defaults(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of values.yaml down to where the schema stops naming values."""
    for name, value in values.items():
        known = schema.get("properties", {}).get(name, {})
        if "properties" in known:
            yield from defaults(value, known, f"{path}{name}.")
        else:
            yield path + name


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the schema that has named values."""
    if "properties" in schema:
        yield path or "the values", schema
        for name, value in schema["properties"].items():
            yield from objects(value, f"{path}.{name}" if path else name)


def test_every_value_has_a_default_and_every_default_is_in_the_schema() -> None:
    assert sorted(defaults(VALUES, SCHEMA)) == sorted(".".join(path) for path, _ in leaves(SCHEMA))


def test_values_that_nobody_named_are_refused_everywhere() -> None:
    assert [path for path, schema in objects(SCHEMA) if schema["additionalProperties"] is not False] == []


def test_every_value_says_what_it_means() -> None:
    assert [path for path, meaning in leaves(SCHEMA) if len(meaning) < 8 or not meaning.endswith(".")] == []


def test_the_readme_documents_every_value() -> None:
    readme = (CHART / "README.md").read_text()
    assert with_table(readme, table(SCHEMA, VALUES)) == readme


def test_a_readme_without_the_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks"):
        with_table("# The chart\n", "| value |")


def test_a_row_gives_path_default_and_meaning() -> None:
    schema = {
        "properties": {
            "image": {"properties": {"tag": {"description": "The tag."}}},
            "global": {"type": "object"},
            "labels": {"description": "Labels."},
        }
    }
    assert table(schema, {"image": {"tag": ""}, "labels": {"a": 1}}).splitlines()[2:] == [
        '| `image.tag` | `""` | The tag. |',
        '| `labels` | `{"a": 1}` | Labels. |',
    ]


def test_the_chart_and_the_distribution_have_the_same_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parent.parent / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in project
