"""From two manifests to pictures, and back to nothing."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from PIL import Image

from shapes.scorer import score
from tests.cluster.audit import AuditLog
from tests.cluster.cluster import PATIENCE, PATIENCE_SECONDS, REPOSITORY, Cluster, wait_for
from tests.cluster.fleet import Fleet
from tests.e2e.images import PROMPT, as_png, client_of, conditions, draw, wait_ready
from tests.pictures import opened, same
from tests.plugins.cluster import Kubectl

POOL = "inferencepools.imagefleet.dev/pictures"
MODEL = "imagemodels.imagefleet.dev/shapes-1"
CHILDREN = "deployments,services,serviceaccounts,poddisruptionbudgets,replicasets,pods"


@pytest.fixture(scope="module")
def pictures(fleet: Fleet, shared_kubectl: Kubectl) -> Kubectl:
    """The quickstart's manifests, applied and Ready."""
    shared_kubectl("apply", "-f", str(REPOSITORY / "examples" / "quickstart"))
    wait_ready(shared_kubectl, "pictures")
    return shared_kubectl


def writes(audit: AuditLog, fleet: Fleet, since: int) -> list[str]:
    """What the fleet's own accounts wrote. Renewing the operator's Lease is what keeps it the leader."""
    mine = f"system:serviceaccount:{fleet.namespace}:"
    events = audit.events(since=since, writes=True)
    return [
        f"{event.user} {event.verb} {event.resource}/{event.subresource} {event.namespace}/{event.name}"
        for event in events
        if event.user.startswith(mine) and event.resource != "leases"
    ]


def name_of(pictures: Kubectl) -> str:
    return f"{pictures.namespace}/shapes"


def test_two_manifests_become_a_picture(fleet: Fleet, pictures: Kubectl) -> None:
    prompt = "a red circle above a blue square on white"
    pictures_drawn = [
        draw(fleet.gateways()[0], name_of(pictures), prompt=prompt, seed=seed) for seed in range(4)
    ]
    assert {(picture.format, picture.size) for picture in pictures_drawn} == {("PNG", (64, 64))}
    right = [score(np.asarray(picture.convert("RGB")), prompt).correct for picture in pictures_drawn]
    assert sum(right) >= 2, "most pictures show what was asked for"


def test_previews_come_before_the_picture_and_look_ever_more_like_it(fleet: Fleet, pictures: Kubectl) -> None:
    events = list(
        client_of(fleet.gateways()[0]).images.generate(
            model=name_of(pictures),
            prompt=PROMPT,
            size="64x64",
            stream=True,
            partial_images=2,
            extra_body={"seed": 1},
        )
    )
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    first, second, last = (np.asarray(opened(event.b64_json).convert("RGB"), float) for event in events)
    assert np.abs(second - last).mean() < np.abs(first - last).mean()
    assert (last == np.asarray(draw(fleet.gateways()[1], name_of(pictures)).convert("RGB"))).all()


def test_an_edit_changes_what_the_mask_shows_and_nothing_else(fleet: Fleet, pictures: Kubectl) -> None:
    given = draw(fleet.gateways()[0], name_of(pictures)).convert("RGB")
    mask = Image.new("RGBA", given.size, "black")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))  # the left half may change
    files = [("image.png", as_png(given)), ("mask.png", as_png(mask))]
    answer = client_of(fleet.gateways()[1]).images.edit(
        model=name_of(pictures), image=files[0], mask=files[1], prompt="a blue square on black"
    )
    assert answer.data
    edited = np.asarray(opened(answer.data[0].b64_json).convert("RGB"))
    kept = np.asarray(given)
    assert (edited[:, 40:] == kept[:, 40:]).all()
    assert (edited[:, :24] != kept[:, :24]).any()


def test_a_seed_gives_the_same_picture_whichever_gateway_answers(fleet: Fleet, pictures: Kubectl) -> None:
    first, second = fleet.gateways()
    first_and_second = [
        draw(gateway, name_of(pictures), seed=7).convert("RGB") for gateway in (first, second)
    ]
    other = draw(first, name_of(pictures), seed=8).convert("RGB")
    assert same(*first_and_second)
    assert not same(first_and_second[0], other)


def test_every_reply_says_which_model_and_seed_drew_it(fleet: Fleet, pictures: Kubectl) -> None:
    raw = client_of(fleet.gateways()[0]).images.with_raw_response.generate(
        model=name_of(pictures), prompt="a red circle", n=2, size="64x64"
    )
    seed = int(raw.headers["x-imagefleet-seed"])
    body = json.loads(raw.content)
    assert raw.headers["x-imagefleet-model"] == "shapes-1"
    assert raw.headers["x-request-id"]
    assert [one["seed"] for one in body["data"]] == [seed, seed + 1]


def test_status_tells_the_whole_story(pictures: Kubectl) -> None:
    all_copies = {"available": 2, "total": 2, "failed": 0}
    wait_for(lambda: pictures.get(MODEL)["status"].get("copies") == all_copies)
    pool, model = pictures.get(POOL), pictures.get(MODEL)
    assert pool["status"]["observedGeneration"] == pool["metadata"]["generation"]
    assert (pool["status"]["replicas"], pool["status"]["readyReplicas"]) == (2, 2)
    (entry,) = pool["status"]["models"]
    assert entry["traffic"] == [{"model": "shapes-1", "percent": 100}]
    assert (entry["stable"], entry["resident"], entry["ready"]) == ("shapes-1", 2, True)
    for resource in (pool, model):
        found = conditions(resource)
        assert found["Ready"]["status"] == "True"
        assert not {"Reconciling", "Stalled"} & set(found), "kstatus: absent when all is well"
    assert model["status"]["digest"].startswith("sha256:")
    assert model["status"]["className"] == "StableDiffusionPipeline"
    assert model["status"]["performance"][0]["secondsPerMegapixelStep"] > 0
    assert "accelerator" not in pool["status"], "there is no NVML here, so nothing is reported"


def test_the_table_a_person_sees_is_useful(pictures: Kubectl) -> None:
    header, row = pictures("get", "imgpool").splitlines()
    assert header.split()[:2] == ["NAME", "READY"]
    assert row.split()[:2] == ["pictures", "True"]


def test_pool_runs_under_the_restricted_pod_security_level(fleet: Fleet, pictures: Kubectl) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    answer = fleet.cluster.kubectl(
        "label", "--dry-run=server", "--overwrite", "namespace", pictures.namespace, label
    )
    assert "Warning" not in answer
    for pod in pictures.get("pods", "-l", "imagefleet.dev/pool=pictures")["items"]:
        assert pod["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("request_body", "status", "code", "param"),
    [
        ({"model": "nothing-like-it"}, 404, "model_not_found", "model"),
        ({"size": "64x63"}, 400, "size_not_supported", "size"),
        ({"size": "8192x8192"}, 400, "limit_exceeded", "size"),
        ({"n": 99}, 400, "limit_exceeded", "n"),
        ({"extra_body": {"num_inference_steps": 1000}}, 400, "limit_exceeded", "num_inference_steps"),
        ({"extra_body": {"colour": "red"}}, 400, "unknown_parameter", "colour"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(
    fleet: Fleet,
    pictures: Kubectl,
    request_body: dict[str, object],
    status: int,
    code: str,
    param: str,
) -> None:
    body = {"model": name_of(pictures), "prompt": "a red circle", "size": "64x64", **request_body}
    with pytest.raises(openai.APIStatusError) as refused:
        client_of(fleet.gateways()[0]).images.generate(**body)  # type: ignore[call-overload]
    error = refused.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.response.headers["x-request-id"]


def test_kubectl_scale_works(pictures: Kubectl) -> None:
    pictures("scale", POOL, "--replicas=1")
    wait_for(lambda: pictures.get(POOL)["status"]["replicas"] == 1)
    wait_ready(pictures, "pictures")


def test_a_request_waits_while_its_worker_starts(fleet: Fleet, pictures: Kubectl) -> None:
    pictures("scale", POOL, "--replicas=0")
    wait_for(lambda: pictures.get(POOL)["status"]["replicas"] == 0)
    assert conditions(pictures.get(POOL))["Ready"]["reason"] == "ScaledToZero"
    with ThreadPoolExecutor(1) as caller:
        drawing = caller.submit(draw, fleet.gateways()[0], name_of(pictures))
        pictures("scale", POOL, "--replicas=1")
        assert drawing.result(timeout=PATIENCE_SECONDS).size == (64, 64)
    wait_ready(pictures, "pictures")


def test_a_child_that_was_edited_or_deleted_by_hand_comes_back(pictures: Kubectl) -> None:
    edited = pictures.get("deployment", "pictures-workers")["spec"]["template"]["spec"]
    pictures("patch", "deployment", "pictures-workers", "--patch", '{"spec": {"replicas": 2}}')
    wait_for(lambda: pictures.get("deployment", "pictures-workers")["spec"]["replicas"] == 1)
    pictures("delete", "poddisruptionbudget,service", "pictures-workers")
    pictures("wait", "--for=create", "service/pictures-workers", PATIENCE)
    pictures("wait", "--for=create", "poddisruptionbudget/pictures-workers", PATIENCE)
    assert pictures.get("deployment", "pictures-workers")["spec"]["template"]["spec"] == edited


def test_operator_down_serving_goes_on(fleet: Fleet, pictures: Kubectl) -> None:
    fleet.scale("operator", 0)
    draw(fleet.gateways()[0], name_of(pictures))
    fleet.scale("operator", 1)


def test_at_rest_nothing_is_written(fleet: Fleet, pictures: Kubectl, audit: AuditLog) -> None:
    """Longer than between two looks at a settled worker; `make bench NAME=control_plane` counts a minute's writes."""
    wait_ready(pictures, "pictures")

    def quiet_since() -> int:
        mark = audit.mark()
        threading.Event().wait(10)
        return 0 if writes(audit, fleet, mark) else mark

    wait_for(quiet_since)
    mark = audit.mark()
    threading.Event().wait(20)
    assert writes(audit, fleet, mark) == []


def test_deleting_the_pool_leaves_nothing_behind(cluster: Cluster, pictures: Kubectl) -> None:
    pictures("delete", POOL)

    def left() -> list[str]:
        found = pictures.get(CHILDREN, "-l", "imagefleet.dev/pool=pictures")["items"]
        return [f"{one['kind']}/{one['metadata']['name']}" for one in found]

    wait_for(lambda: not left())
