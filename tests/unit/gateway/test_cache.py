import json
from typing import Any

import pytest
from imagefleet_runtime.gateway.cache import Cache, Kept
from imagefleet_runtime.gateway.images import read_edit_json, read_generation
from imagefleet_runtime.gateway.work import Request

from tests.unit.gateway.builders import data_url

KEY = ("art", "thumbs", "shapes-1")
NAME = "art/shapes"
ASKED: dict[str, Any] = {"prompt": "a red circle", "seed": 5}


def generation(**fields: Any) -> Request:
    return read_generation(json.dumps(ASKED | fields).encode())


def edit(size: tuple[int, int] = (8, 8), mask: tuple[int, int] | None = None, **fields: Any) -> Request:
    pictures: dict[str, Any] = {"images": [{"image_url": data_url("PNG", size)}]}
    if mask:
        pictures["mask"] = {"image_url": data_url("PNG", mask)}
    return read_edit_json(json.dumps(ASKED | pictures | fields).encode())


def cached(request: Request, name: str = NAME, limit: int = 10_000) -> Cache:
    cache = Cache(limit)
    cache.put(request, name, KEY, b"reply")
    return cache


SAME: dict[str, Request] = {
    "word for word": generation(),
    "by its full name": generation(model="art/shapes"),
    "for someone else": generation(user="other", safety_identifier="x"),
    "in no hurry": generation(priority="batch", deadline_seconds=5),
}


@pytest.mark.parametrize("request_", SAME.values(), ids=SAME.keys())
def test_the_same_request_has_the_reply_again(request_: Request) -> None:
    assert cached(generation(model="shapes")).get(request_, NAME) == Kept(KEY, b"reply")


OTHERS: dict[str, Request] = {
    "another prompt": generation(prompt="a blue circle"),
    "another seed": generation(seed=6),
    "more pictures": generation(n=2),
    "another size": generation(size="64x64"),
    "other words to avoid": generation(negative_prompt="blue"),
    "another encoding": generation(output_format="jpeg"),
    "an adapter": generation(adapters=[{"name": "pixel"}]),
    "a picture to go by": generation(control_image=data_url("PNG", (8, 8))),
    "an edit": edit(),
}


@pytest.mark.parametrize("request_", OTHERS.values(), ids=OTHERS.keys())
def test_another_request_has_none(request_: Request) -> None:
    assert cached(generation()).get(request_, NAME) is None


OTHER_EDITS: dict[str, Request] = {
    "another picture": edit((16, 8)),
    "with a mask": edit(mask=(8, 8)),
    "another strength": edit(strength=0.5),
}


@pytest.mark.parametrize("request_", OTHER_EDITS.values(), ids=OTHER_EDITS.keys())
def test_another_edit_has_none(request_: Request) -> None:
    cache = cached(edit())
    assert cache.get(edit(), NAME) is not None
    assert cache.get(request_, NAME) is None


def test_a_picture_and_a_mask_do_not_trade_places() -> None:
    assert cached(edit((8, 8), mask=(16, 8))).get(edit((16, 8), mask=(8, 8)), NAME) is None


def test_another_name_has_none() -> None:
    assert cached(generation()).get(generation(), "lab/shapes") is None


@pytest.mark.parametrize(
    "request_",
    [generation(seed=None), generation(stream=True)],
    ids=["any picture would do", "a stream"],
)
def test_is_not_kept(request_: Request) -> None:
    assert cached(request_).get(request_, NAME) is None


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    room_for_two = 2 * Kept(KEY, b"reply").size
    cache = cached(generation(seed=1), limit=room_for_two)
    cache.put(generation(seed=2), NAME, KEY, b"reply")
    cache.get(generation(seed=1), NAME)
    cache.put(generation(seed=3), NAME, KEY, b"reply")
    found = [cache.get(generation(seed=seed), NAME) is not None for seed in (1, 2, 3)]
    assert found == [True, False, True]


def test_a_reply_that_is_drawn_again_takes_its_own_place() -> None:
    cache = cached(generation(seed=1), limit=2 * Kept(KEY, b"reply").size)
    cache.put(generation(seed=2), NAME, KEY, b"reply")
    for _ in range(10):
        cache.put(generation(seed=2), NAME, KEY, b"reply")
    assert cache.get(generation(seed=1), NAME) is not None


def test_a_reply_that_is_too_large_pushes_out_no_other() -> None:
    cache = cached(generation(seed=1))
    cache.put(generation(seed=2), NAME, KEY, b"x" * 10_000)
    assert cache.get(generation(seed=1), NAME) is not None
    assert cache.get(generation(seed=2), NAME) is None


def test_without_room_nothing_is_kept() -> None:
    assert cached(generation(), limit=0).get(generation(), NAME) is None
