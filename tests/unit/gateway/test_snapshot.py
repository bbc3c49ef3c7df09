import pytest
from imagefleet_runtime.gateway.errors import ApiError
from imagefleet_runtime.gateway.resources import Fallback, Stickiness
from imagefleet_runtime.gateway.snapshot import EMPTY, build, describe

from tests.unit.gateway.builders import make_model, make_pool, make_worker


def test_joins_workers_pools_and_models() -> None:
    placed, other = make_worker("w1"), make_worker("w2", placement=(("sdxl", True),))
    snapshot = build([placed, other], [make_pool()], [make_model()])
    (share,) = snapshot.find("shapes").shares
    assert (share.model, share.view, share.workers) == ("shapes-1", make_model(), (placed,))


def test_a_worker_of_another_pool_is_no_candidate() -> None:
    snapshot = build([make_worker(pool="other")], [make_pool()], [make_model()])
    assert snapshot.find("shapes").shares[0].workers == ()


def test_all_pools_of_a_namespace_that_offer_a_name_serve_it() -> None:
    workers = [make_worker("w1"), make_worker("w2", pool="second")]
    snapshot = build(workers, [make_pool(), make_pool("second")], [make_model()])
    assert [share.pool for share in snapshot.find("art/shapes").shares] == ["second", "thumbs"]


def test_a_name_of_several_namespaces_needs_its_full_name() -> None:
    snapshot = build([], [make_pool(), make_pool(namespace="lab")], [])
    with pytest.raises(ApiError) as caught:
        snapshot.find("shapes")
    assert (caught.value.status, caught.value.code) == (400, "ambiguous_model")
    assert "art/shapes, lab/shapes" in caught.value.message
    assert snapshot.find("lab/shapes").namespace == "lab"
    assert [name for name, _ in snapshot.listed()] == ["art/shapes", "lab/shapes"]


def test_no_model_named_means_the_only_one() -> None:
    assert build([], [make_pool()], []).find(None).name == "shapes"


def test_no_model_named_of_several_lists_the_choices() -> None:
    offers = {f"m{i}": {"x": 100.0} for i in range(10)}
    with pytest.raises(ApiError) as caught:
        build([], [make_pool(offers=offers)], []).find(None)
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "missing_required_parameter",
        "model",
    )
    assert "m0, m1, m2, m3, m4, m5, m6, m7 and 2 more" in caught.value.message


def test_unknown_model() -> None:
    with pytest.raises(ApiError) as caught:
        build([], [make_pool()], []).find("dall-e-3")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert "Choose one of: shapes." in caught.value.message


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ApiError, match="No InferencePool offers a model yet"):
        EMPTY.find(None)


def test_describes_a_model_as_openai_does() -> None:
    snapshot = build([make_worker()], [make_pool()], [make_model()])
    assert describe("shapes", snapshot.find("shapes")) == {
        "id": "shapes",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "art",
        "imagefleet": {
            "models": {"shapes-1": 100.0},
            "suspended": [],
            "license": "Apache-2.0",
            "capabilities": None,
            "adapters": [],
            "ready": True,
        },
    }


def test_describes_what_every_version_of_a_model_can_do() -> None:
    first = make_model(capabilities=("text-to-image", "inpainting"), adapters=("ink", "oil"))
    second = make_model("shapes-2", capabilities=None, adapters=("pixel", "oil"))
    split = make_pool(offers={"shapes": {"shapes-1": 95.0, "shapes-2": 5.0}})
    described = describe("shapes", build([], [split], [first, second]).find("shapes"))["imagefleet"]
    assert described["capabilities"] == ["inpainting", "text-to-image"]
    assert described["adapters"] == ["oil"]


def test_a_model_without_a_worker_is_not_ready() -> None:
    snapshot = build([], [make_pool()], [make_model()])
    assert describe("shapes", snapshot.find("shapes"))["imagefleet"]["ready"] is False


def test_what_is_suspended_has_no_share_and_gets_no_copies() -> None:
    pool = make_pool(
        offers={"shapes": {"shapes-1": 95.0, "shapes-2": 5.0}},
        entry={"mirror": (("shapes-2", 10.0), ("shapes-3", 10.0)), "suspended_models": ("shapes-2",)},
    )
    route = build([], [pool], []).find("shapes")
    assert [share.model for share in route.shares] == ["shapes-1"]
    assert [share.model for share in route.mirrors] == ["shapes-3"]
    assert route.suspended == (("thumbs", "shapes-2"),)
    assert describe("shapes", route)["imagefleet"]["suspended"] == ["shapes-2"]


def test_a_suspended_name_is_listed_and_not_ready() -> None:
    snapshot = build([make_worker()], [make_pool(entry={"suspended": True})], [make_model()])
    ((name, route),) = snapshot.listed()
    described = describe(name, route)["imagefleet"]
    assert (described["models"], described["suspended"], described["ready"]) == ({}, ["shapes-1"], False)


def test_a_suspended_entry_suspends_whatever_is_behind_it() -> None:
    snapshot = build([], [make_pool(entry={"suspended": True}), make_pool("second")], [])
    assert snapshot.suspends("art", "thumbs", "shapes", "shapes-of-yesterday")
    assert not snapshot.suspends("art", "second", "shapes", "shapes-1")
    assert not snapshot.suspends("art", "thumbs", "other", "shapes-1")


def test_a_suspended_model_suspends_no_other() -> None:
    snapshot = build([], [make_pool(entry={"suspended_models": ("shapes-2",)})], [])
    assert snapshot.suspends("art", "thumbs", "shapes", "shapes-2")
    assert not snapshot.suspends("art", "thumbs", "shapes", "shapes-1")


def test_the_first_pool_that_has_one_decides_on_stickiness_and_fallback() -> None:
    pools = [
        make_pool("a"),
        make_pool("b", entry={"stickiness": Stickiness(user=True), "fallback": Fallback("x")}),
        make_pool("c", entry={"stickiness": Stickiness(b"h"), "fallback": Fallback("y")}),
    ]
    route = build([], pools, []).find("shapes")
    assert (route.stickiness, route.fallback) == (Stickiness(user=True), Fallback("x"))
