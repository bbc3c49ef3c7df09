"""Write the table of the chart's README from values.yaml (defaults) and values.schema.json (meanings).

`python -m scripts.chart_readme` writes it; `--check` writes nothing and exits 1 where the table differs.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "charts" / "imagefleet"
BEGIN = "<!-- values: written by `make generate` -->"
END = "<!-- end of values -->"


def leaves(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and meaning of each value of the schema, except objects with named values of their own."""
    for name, value in schema["properties"].items():
        here = (*path, name)
        if here == ("global",):
            continue
        if "properties" in value:
            yield from leaves(value, here)
        else:
            yield here, value["description"]


def table(schema: dict[str, Any], values: dict[str, Any]) -> str:
    """One row for each value, in the schema's order.

    Raises KeyError where values.yaml has no default for a value of the schema.
    """
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, meaning in leaves(schema):
        default: Any = values
        for name in path:
            default = default[name]
        rows.append(f"| `{'.'.join(path)}` | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(rows)


def with_table(readme: str, rows: str) -> str:
    """The README with its table replaced. Raises ValueError where a marker is missing."""
    head, _, rest = readme.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise ValueError(f"the chart's README lacks {BEGIN!r} or {END!r}")
    return f"{head}{BEGIN}\n{rows}\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the table differs")
    arguments = parser.parse_args()
    path = CHART / "README.md"
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    old = path.read_text()
    new = with_table(old, table(schema, values))
    if old == new:
        return 0
    if arguments.check:
        print(f"{path} differs from values.yaml and values.schema.json: run `make generate`", file=sys.stderr)
        return 1
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
