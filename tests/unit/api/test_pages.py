"""What the pages show can be applied."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from imagefleet_operator.api import ImageModel, InferencePool

PAGE = Path("docs/describing-models.md")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
DOCUMENTS: list[dict[str, Any]] = [document for block in BLOCKS for document in yaml.safe_load_all(block)]
KINDS: dict[str, type[ImageModel] | type[InferencePool]] = {
    "ImageModel": ImageModel,
    "InferencePool": InferencePool,
}
WHOLE = [document for document in DOCUMENTS if document.get("kind") in KINDS]
PARTS = [document["spec"] for document in DOCUMENTS if document.keys() == {"spec"}]
SOURCE = {"uri": "file:///models/tiny-1"}


@pytest.mark.parametrize("document", WHOLE, ids=lambda document: document["metadata"]["name"])
def test_each_resource_of_the_page_is_one(document: dict[str, Any]) -> None:
    metadata = {**document["metadata"], "namespace": "ns", "uid": "u"}
    parsed = KINDS[document["kind"]].parse({**document, "metadata": metadata})
    assert document["spec"].keys() <= parsed.spec.to_dict().keys()


@pytest.mark.parametrize("spec", PARTS, ids=lambda spec: next(iter(spec)))
def test_each_part_of_a_model_on_the_page_belongs_to_one(spec: dict[str, Any]) -> None:
    metadata = {"name": "shown", "namespace": "ns", "uid": "u"}
    parsed = ImageModel.parse({"metadata": metadata, "spec": {"source": SOURCE, **spec}})
    assert spec.keys() <= parsed.spec.to_dict().keys()


def test_the_page_shows_some_of_each() -> None:
    assert len(WHOLE) >= 3
    assert len(PARTS) >= 3
