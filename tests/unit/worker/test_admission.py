from dataclasses import replace

import pytest
from imagefleet_runtime.worker.admission import check_length, check_memory
from imagefleet_runtime.worker.errors import ApiError
from imagefleet_runtime.worker.messages import Capabilities, Loaded, SizeProfile

from tests.unit.worker.test_waiting import draw, make_model

GIB = 2**30
CAPABILITIES = Capabilities("StableDiffusionPipeline", 8, frozenset(), True)
# 2 GiB at rest, 3 GiB for 512x512, 6 GiB for 1024x1024: 1 GiB for each 512x512 on 2 GiB.
LOADED = Loaded(
    CAPABILITIES,
    (
        SizeProfile(512, 512, 0.1, ((1, 0.1),), ((1, 3 * GIB),)),
        SizeProfile(1024, 1024, 0.1, ((1, 0.1),), ((1, 6 * GIB),)),
    ),
    2 * GIB,
)


def refusal(width: int, height: int, limit: int) -> ApiError | None:
    model = make_model()
    model.loaded(LOADED)
    try:
        check_memory(replace(draw(), width=width, height=height), model, limit)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (2048, 512)])
def test_a_picture_that_fits_is_admitted(size: tuple[int, int]) -> None:
    assert refusal(*size, limit=6 * GIB) is None


def test_a_picture_that_cannot_fit_is_refused_with_the_limit_and_the_largest_size_that_does() -> None:
    error = refusal(2048, 2048, limit=10 * GIB)
    assert error is not None
    assert (error.status, error.code, error.param) == (400, "size_exceeds_memory", "size")
    assert error.message == (
        "2048x2048 needs about 18.00 GiB; shapes-1 may use 10.00 GiB here (10737418240 bytes); "
        "the largest of this shape that fits is 1448x1448"
    )


def test_the_size_that_is_named_is_admitted() -> None:
    assert refusal(1448, 1448, limit=10 * GIB) is None
    assert refusal(1456, 1456, limit=10 * GIB) is not None


def test_where_no_size_fits_that_is_said() -> None:
    error = refusal(512, 512, limit=GIB)
    assert error is not None
    assert error.message.endswith("no size of this shape fits")


def test_a_size_that_ran_out_of_memory_is_refused_whatever_was_expected() -> None:
    model = make_model()
    model.loaded(LOADED)
    model.footprint.ran_out(1024, 1024, 1)
    with pytest.raises(ApiError, match="1024x1024 ran out of memory before") as refused:
        check_memory(replace(draw(), width=1024, height=1024), model, 80 * GIB)
    assert "fits is 1016x1016" in refused.value.message


def test_before_the_first_load_there_is_no_opinion() -> None:
    check_memory(replace(draw(), width=8192, height=8192), make_model(), 1)


def test_a_request_may_take_as_long_as_is_allowed_and_no_longer() -> None:
    check_length(300.0, 300.0)
    with pytest.raises(ApiError, match=r"about 301 s; at most 300 s") as refused:
        check_length(300.1, 300.0)
    assert (refused.value.status, refused.value.code) == (400, "request_too_long")
