from typing import Any

import pytest
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.messages import Options, StepCache
from imagefleet_runtime.worker.policy import ModelPolicy, Policy
from imagefleet_runtime.worker.schema import parse
from pydantic import ValidationError

DIGEST = "sha256:" + "0" * 64
ADAPTER = {"name": "pixel", "path": "/models/pixel", "digest": DIGEST}


def entry(**fields: Any) -> ModelPolicy:
    return ModelPolicy.model_validate({"model": "m", "path": "/m", "digest": DIGEST, **fields})


def test_a_policy_may_be_short() -> None:
    text = b'{"models": [{"model": "m", "path": "/m", "digest": "%s"}]}' % DIGEST.encode()
    [short] = parse(Policy, text).models
    assert (short.pinned, short.memoryBytes, short.adapters) == (False, None, [])
    assert short.pipeline.options() == Options()
    assert short.warm_sizes == ((512, 512),)


def test_a_model_is_named_once_in_a_policy() -> None:
    text = entry().model_dump_json(exclude_none=True)
    with pytest.raises(ApiError, match="named twice: m"):
        parse(Policy, f'{{"models": [{text}, {text}]}}'.encode())


def test_an_adapter_is_named_once_in_a_model() -> None:
    with pytest.raises(ValidationError, match="named twice: pixel"):
        entry(adapters=[ADAPTER, ADAPTER])


SOURCES: dict[str, tuple[dict[str, Any], bool]] = {
    "a folder": ({"path": "/m"}, True),
    "a hub": ({"path": None, "uri": "hf://a/b@0123"}, True),
    "a hub with a token": ({"path": None, "uri": "hf://a/b@0123", "credentials": "/secrets/hub"}, True),
    "a bucket": ({"path": None, "uri": "s3://bucket/prefix"}, True),
    "neither": ({"path": None}, False),
    "both": ({"path": "/m", "uri": "s3://bucket/prefix"}, False),
    "credentials for a folder": ({"path": "/m", "credentials": "/secrets/hub"}, False),
    "a folder as a uri": ({"path": None, "uri": "file:///m"}, False),
    "a relative folder": ({"path": "m"}, False),
}


@pytest.mark.parametrize(("fields", "good"), SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("of", ["model", "adapter"])
def test_a_source_is_a_folder_or_a_uri(of: str, fields: dict[str, Any], good: bool) -> None:
    given = fields if of == "model" else {"adapters": [{**ADAPTER, **fields}]}
    if good:
        entry(**given)
    else:
        with pytest.raises(ValidationError):
            entry(**given)


def test_options_are_those_of_the_pipeline() -> None:
    fast = entry(
        pipeline={
            "className": "FluxPipeline",
            "dtype": "bfloat16",
            "quantization": "float8-dynamic",
            "compile": "regional",
            "attention": "flash",
            "stepCache": {"type": "FirstBlock", "threshold": 0.1},
        }
    )
    want = Options(
        "FluxPipeline", "bfloat16", "float8-dynamic", "regional", "flash", StepCache("FirstBlock", 0.1)
    )
    assert fast.pipeline.options() == want


def test_only_first_block_has_a_threshold() -> None:
    with pytest.raises(ValidationError, match="TaylorSeer has none"):
        entry(pipeline={"stepCache": {"type": "TaylorSeer", "threshold": 0.1}})


def test_the_default_size_is_warmed_first_and_none_twice() -> None:
    warm = entry(sizes=["768x512", "64x64", "768x512"], defaults={"size": "64x64"}).warm_sizes
    assert warm == ((64, 64), (768, 512))


@pytest.mark.parametrize(
    ("capabilities", "of_pipeline", "want"),
    [
        (None, ("text-to-image", "inpainting"), ("text-to-image", "inpainting")),
        (["inpainting"], ("text-to-image", "inpainting"), ("inpainting",)),
        (["image-to-image"], ("text-to-image",), ()),
    ],
)
def test_capabilities_leave_some_of_a_pipelines_modes(
    capabilities: Any, of_pipeline: Any, want: tuple[str, ...]
) -> None:
    assert entry(capabilities=capabilities).modes(of_pipeline) == want


IDENTITIES: dict[str, tuple[dict[str, Any], bool]] = {
    "other files": ({"digest": "sha256:" + "1" * 64}, True),
    "another folder": ({"path": "/other"}, True),
    "other options": ({"pipeline": {"dtype": "float32"}}, True),
    "an adapter": ({"adapters": [ADAPTER]}, True),
    "a pin": ({"pinned": True}, False),
    "other limits": ({"limits": {"maxSteps": 3}}, False),
    "other sizes": ({"sizes": ["64x64"]}, False),
}


@pytest.mark.parametrize(("fields", "differs"), IDENTITIES.values(), ids=IDENTITIES.keys())
def test_an_engine_is_replaced_where_it_is_made_from_something_else(
    fields: dict[str, Any], differs: bool
) -> None:
    assert (entry(**fields).identity != entry().identity) == differs


def test_an_adapter_with_other_files_is_something_else() -> None:
    other = {**ADAPTER, "digest": "sha256:" + "1" * 64}
    assert entry(adapters=[ADAPTER]).identity != entry(adapters=[other]).identity
