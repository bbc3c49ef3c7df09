"""Checks of texts: each case says which check refuses a text, None where all of them hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.api import Source
from imagefleet_operator.api.checks import Check, pattern
from imagefleet_operator.api.image_model import (
    ADAPTER_NAME_CHECK,
    CLASS_NAME_CHECK,
    SIZE_CHECK,
    SIZE_STEP_CHECK,
    SPDX_CHECK,
)
from imagefleet_operator.api.inference_pool import (
    HOOK_CHECK,
    IMAGE_CHECK,
    NATIVE_RESOURCE_CHECK,
    RESOURCE_CHECK,
)
from imagefleet_operator.api.pool_model import (
    EXPERIMENT_NAME_CHECK,
    HEADER_CHECK,
    MODEL_REFERENCE_CHECK,
    POOL_MODEL_NAME_CHECK,
    PRIVATE_HEADER_CHECK,
)
from imagefleet_operator.api.rollout import (
    BURN_RATE_CHECKS,
    RATE_CHECK,
    RATIO_CHECKS,
    SUCCESS_RATE_CHECK,
    TOLERANCE_CHECK,
)
from imagefleet_operator.api.source import DIGEST_CHECK, SECRET_NAME_CHECK, URI_CHECKS

COMMIT = "71153311d3dbb46851df1931d3ca6e939de83304"
HEX = "0123456789abcdef" * 4


def refused_by(checks: tuple[Check, ...], text: str) -> str | None:
    """The beginning of the message of the first check that does not hold."""
    return next((check.message for check in checks if not check.holds(text)), None)


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        ("file:///models/shapes-1", None),
        ("file:///models/shapes-1/", None),
        ("file:///models/.hidden/..twice/...", None),
        ("pvc://weights/a", None),
        ("pvc://w.example-1/a/b@c+d=e,f~g", None),
        ("", "uri must begin with"),
        ("/models/shapes-1", "uri must begin with"),
        (f"hf://org/Model-1.0@{COMMIT}", None),
        (f"hf://org/model@{COMMIT}/fp16/", None),
        ("hf://org/model", "an hf:// uri pins its revision"),
        ("hf://org/model@main", "an hf:// uri pins its revision"),
        (f"hf://org/model@{COMMIT[:7]}", "an hf:// uri pins its revision"),
        (f"hf://org/model@{COMMIT.upper()}", "an hf:// uri pins its revision"),
        (f"hf://org/model/{COMMIT}", "an hf:// uri pins its revision"),
        (f"hf://model@{COMMIT}", "an hf:// uri names a repository"),
        (f"hf://org/@{COMMIT}", "an hf:// uri names a repository"),
        (f"hf://org/model@{COMMIT}/../x", "uri must not hold"),
        ("s3://weights/sdxl", None),
        ("s3://weights.example/a/b/", None),
        ("s3://weights", "an s3:// uri holds the bucket's name"),
        ("s3://Weights/a", "an s3:// uri holds the bucket's name"),
        ("s3://ab/a", "an s3:// uri holds the bucket's name"),
        ("s3:///a", "an s3:// uri holds the bucket's name"),
        ("s3://weights/a//b", "uri must not hold"),
        ("gs://my_weights/a", None),
        ("gs://weights/", "a gs:// uri holds the bucket's name"),
        (f"oci://registry.example.com:5000/a/b-c_d.e@sha256:{HEX}", None),
        ("oci://localhost/a:v1.0_2", None),
        ("oci://registry.example.com/a", "an oci:// uri names a registry"),
        ("oci://registry.example.com:v1", "an oci:// uri names a registry"),
        ("oci://registry.example.com/A:v1", "an oci:// uri names a registry"),
        (f"oci://registry.example.com/a@sha256:{HEX[1:]}", "an oci:// uri names a registry"),
        (f"oci://registry.example.com/a:v1@sha256:{HEX}", "an oci:// uri names a registry"),
        ("oci://registry.example.com/a/../b:v1", "an oci:// uri names a registry"),
        ("ftp://org/model", "uri must begin with"),
        ("FILE:///models", "uri must begin with"),
        ("file://models/a", "a file:// uri holds an absolute path"),
        ("file:///", "a file:// uri holds an absolute path"),
        ("file:////models", "a file:// uri holds an absolute path"),
        ("pvc:///a", "a pvc:// uri holds the name"),
        ("pvc://weights", "a pvc:// uri holds the name"),
        ("pvc://weights/", "a pvc:// uri holds the name"),
        ("pvc://-weights/a", "a pvc:// uri holds the name"),
        ("pvc://weights//a", "a pvc:// uri holds the name"),
        ("pvc://../a", "a pvc:// uri holds the name"),
        ("file:///a/../b", "uri must not hold"),
        ("file:///a/..", "uri must not hold"),
        ("file:///a/./b", "uri must not hold"),
        ("file:///a//b", "uri must not hold"),
        ("pvc://weights/..", "uri must not hold"),
        ("file:///a b", "uri may hold letters"),
        ("file:///a\n", "uri may hold letters"),
        ("file:///a%2e%2e", "uri may hold letters"),
        ("file:///a?b", "uri may hold letters"),
        ("file:///$(HOME)", "uri may hold letters"),
        ("file:///é", "uri may hold letters"),
    ],
)
def test_a_uri_names_one_folder_that_can_be_mounted(uri: str, want: str | None) -> None:
    got = refused_by(URI_CHECKS, uri)
    assert got is None if want is None else str(got).startswith(want)


@given(st.from_regex(r"\A(file://|pvc://)[a-z./]{0,12}\Z"))
def test_a_uri_that_passes_never_leads_out_of_its_folder(uri: str) -> None:
    if refused_by(URI_CHECKS, uri) is None:
        folder = Source(uri=uri).folder
        assert folder is not None
        parts = folder.split("/")
        assert parts[0] == ""
        assert not {"", ".", ".."} & set(parts[1:])


@pytest.mark.parametrize(
    ("check", "holding", "refused"),
    [
        (DIGEST_CHECK, ["sha256:" + "0a" * 32], ["", "0a" * 32, "sha256:" + "0A" * 32, "sha256:" + "0" * 63]),
        (
            CLASS_NAME_CHECK,
            ["AutoPipelineForText2Image", "StableDiffusionXLPipeline", "_MyPipeline"],
            ["", "Pipeline", "os.system", "FluxPipelin", "1Pipeline", "AutoPipelineForText2Image\n"],
        ),
        (
            SIZE_CHECK,
            ["64x64", "512x768", "16384x16384"],
            ["", "512", "512X512", "0x512", "512x512x3", "-8x8", "8x8"],
        ),
        (SIZE_STEP_CHECK, ["64x64", "512x768", "not a size"], ["100x512", "512x513"]),
        (SECRET_NAME_CHECK, ["hub", "hub.token-1"], ["", "Hub", "-hub", "hub/", "hub token"]),
        (ADAPTER_NAME_CHECK, ["a", "Pixel.art_2-x"], ["", "a b", "-a", "a.", "a/b", "a=b", "a#b"]),
        (
            SPDX_CHECK,
            [
                "MIT",
                "Apache-2.0",
                "GPL-2.0+",
                "MIT OR Apache-2.0",
                "(MIT OR ISC) AND LicenseRef-a",
                "a WITH b",
            ],
            ["", "free for all", "MIT OR", "MIT, ISC", "MIT or ISC"],
        ),
        (POOL_MODEL_NAME_CHECK, ["a", "sdxl:turbo_1.0", "SD-3.5"], ["", "a/b", "-a", "a-", "a b", "é"]),
        (MODEL_REFERENCE_CHECK, ["a", "2nd-model", "sdxl-1-0"], ["", "a.b", "A", "-a", "a-", "a_b"]),
        (
            RESOURCE_CHECK,
            ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "amd.com/gpu", "a/B_c"],
            ["", "gpu", "cpu", "nvidia.com/", "/gpu", "NVIDIA.com/gpu", "nvidia.com/a/b"],
        ),
        (
            NATIVE_RESOURCE_CHECK,
            ["nvidia.com/gpu", "notkubernetes.io/gpu", "kubernetes.io.example/gpu"],
            ["kubernetes.io/gpu", "node.kubernetes.io/gpu"],
        ),
        (EXPERIMENT_NAME_CHECK, ["a", "more-styles-2"], ["", "Styles", "-a", "a-", "a b"]),
        (HOOK_CHECK, ["shapes", "my.scorer_1-2", "A"], ["", "a b", "shapes:safe", "-a", "a."]),
        (HEADER_CHECK, ["x-session-id", "X_Session"], ["", "x session", "x:y", "-x", "é", "x\n"]),
        (
            PRIVATE_HEADER_CHECK,
            ["x-session-id", "x-cookie"],
            ["cookie", "Authorization", "PROXY-authorization"],
        ),
        (
            RATE_CHECK,
            ["0", "0.0", "0.999999", "1", "1.0"],
            ["", ".5", "0.", "1.1", "00.5", "5%", "-0", "0,5", "1e-3", "nan", "0.1234567"],
        ),
        (SUCCESS_RATE_CHECK, ["0.999", "0"], ["1", "1.0"]),
        (TOLERANCE_CHECK, ["0.05", "1.0", "0.10", "1"], ["0", "0.0", "0.000"]),
        (IMAGE_CHECK, ["worker", "r.example:5000/a/b@sha256:0", "a/b:1"], ["", "my worker", "-a", "a$b"]),
    ],
    ids=[
        "digest",
        "class",
        "size",
        "step",
        "secret",
        "adapter",
        "spdx",
        "name",
        "model",
        "resource",
        "native",
        "experiment",
        "hook",
        "header",
        "private header",
        "rate",
        "success rate",
        "tolerance",
        "image",
    ],
)
def test_a_check_holds_of_what_it_should(check: Check, holding: list[str], refused: list[str]) -> None:
    assert [text for text in holding if not check.holds(text)] == []
    assert [text for text in refused if check.holds(text)] == []


@pytest.mark.parametrize(
    ("checks", "holding", "refused"),
    [
        (
            RATIO_CHECKS,
            ["1.25", "2", "1.000001", "999999"],
            ["1", "1.0", "0.5", "", "125%", "-2", "1e3", "inf"],
        ),
        (
            BURN_RATE_CHECKS,
            ["1", "0.5", "14.4", "0.000001"],
            ["0", "0.0", "", "2x", "-1", "nan", "1000000000"],
        ),
    ],
    ids=["ratio", "burn rate"],
)
def test_a_decimal_number_is_larger_than_its_bound(
    checks: tuple[Check, ...], holding: list[str], refused: list[str]
) -> None:
    assert [text for text in holding if refused_by(checks, text)] == []
    assert [text for text in refused if not refused_by(checks, text)] == []


@pytest.mark.parametrize(
    ("prefix", "want_cel"),
    [("", "self.matches('^(a|b)$')"), ("x://", "!self.startsWith('x://') || self.matches('^(a|b)$')")],
)
def test_a_pattern_is_matched_as_a_whole_by_the_api_server_too(prefix: str, want_cel: str) -> None:
    assert pattern("a|b", "message", prefix=prefix).cel == want_cel
