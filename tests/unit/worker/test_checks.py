"""Checks of pictures: which hooks there are, what they say, and what callers see of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from typing import Any

import httpx
import numpy as np
import pytest
from imagefleet_runtime.worker import checks
from imagefleet_runtime.worker.checks import Findings, Hooks, find_hooks
from imagefleet_runtime.worker.settings import CheckSettings, SettingsError
from imagefleet_runtime.worker.waiting import Picture, Preview
from PIL import Image

from tests.unit.worker.http_fakes import FakeSupervisor, answer, ask, client_of, make_app
from tests.unit.worker.pictures import encoded, noise

PROMPT = "a secret castle"  # what `ask` asks for
WHITE, BLACK = (encoded(Image.new("RGB", (8, 8), colour)) for colour in ("white", "black"))


def is_bright(_prompt: str, picture: Image.Image) -> bool:
    return picture.getpixel((0, 0)) == (255, 255, 255)


def brightness(_prompt: str, picture: Image.Image) -> float:
    return float(np.asarray(picture).mean() / 255)


def repeat_the_prompt(prompt: str, _picture: Image.Image) -> Any:
    raise ValueError(prompt)


class Client:
    """A caller of a worker with hooks, whose jobs the test answers."""

    def __init__(self, supervisor: FakeSupervisor, http: httpx.AsyncClient) -> None:
        self.supervisor = supervisor
        self._http = http

    async def generate(self, *images: bytes, **fields: Any) -> httpx.Response:
        """The reply to a request for as many pictures as are drawn."""
        post = self._http.post("/v1/generate", content=ask(n=len(images), **fields))
        reply = asyncio.create_task(post)
        job = await self.supervisor.jobs.get()
        for index, image in enumerate(images):
            job.tell(Picture(index, image))
        answer(job, *images)
        return await reply

    def sample(self, name: str, **labels: str) -> float | None:
        known = {"namespace": "team-a", "pool": "images", "model": "shapes-1"}
        return self.supervisor.metrics.registry.get_sample_value(
            f"imagefleet_worker_{name}", {**known, **labels}
        )


@contextlib.asynccontextmanager
async def worker(**hooks: Any) -> AsyncIterator[Client]:
    supervisor = FakeSupervisor()
    app = make_app(supervisor, hooks=Hooks(**hooks))
    async with client_of(app) as http:
        yield Client(supervisor, http)


def found(reply: httpx.Response) -> tuple[str | None, ...]:
    return tuple(reply.headers.get(f"x-imagefleet-{name}") for name in ("checked", "unsafe", "quality"))


def events(reply: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in reply.text.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_pictures_that_pass_are_sent_and_counted() -> None:
    async with worker(safety=is_bright) as client:
        reply = await client.generate(WHITE, WHITE)
        assert (reply.status_code, len(reply.json()["data"])) == (200, 2)
        assert found(reply) == ("2", "0", None)
        assert client.sample("pictures_checked_total") == 2
        assert client.sample("pictures_unsafe_total") == 0
        assert client.sample("check_seconds_count", check="safety") == 2


async def test_one_picture_that_fails_holds_back_the_whole_reply() -> None:
    async with worker(safety=is_bright) as client:
        reply = await client.generate(WHITE, BLACK)
        error = reply.json()["error"]
        assert (reply.status_code, error["type"], error["code"]) == (
            400,
            "invalid_request_error",
            "content_policy_violation",
        )
        assert "data" not in reply.json()
        assert found(reply) == ("2", "1", None)
        assert reply.headers["x-imagefleet-run-seconds"] == "0.500000"
        assert client.sample("pictures_unsafe_total") == 1
        assert client.supervisor.count("content_policy_violation") == 1


async def test_what_a_check_is_asked_about_is_the_prompt_and_its_picture() -> None:
    seen: list[tuple[str, tuple[int, int], str]] = []

    def remember(prompt: str, picture: Image.Image) -> bool:
        seen.append((prompt, picture.size, picture.mode))
        return True

    async with worker(safety=remember) as client:
        await client.generate(encoded(noise(48, 32)), output_format="png")
    assert seen == [(PROMPT, (48, 32), "RGB")]


async def test_a_check_that_raises_has_not_passed_and_the_log_does_not_repeat_the_prompt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with worker(safety=repeat_the_prompt) as client:
        reply = await client.generate(WHITE)
        assert (reply.status_code, found(reply)) == (400, ("1", "1", None))
    output = capsys.readouterr().out
    assert PROMPT not in output + reply.text
    [line] = [json.loads(line) for line in output.splitlines() if '"check_failed"' in line]
    assert (line["check"], line["model"], line["error"]) == ("safety", "shapes-1", "ValueError")
    assert "test_checks.py" in line["at"]


async def test_a_check_that_hangs_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.05)
    never = threading.Event()
    async with worker(safety=lambda _prompt, _picture: never.wait()) as client:
        assert found(await client.generate(WHITE)) == ("1", "1", None)
    never.set()


async def test_a_look_does_not_hold_up_other_requests() -> None:
    looking, enough = threading.Event(), threading.Event()

    def slow(_prompt: str, _picture: Image.Image) -> bool:
        looking.set()
        return enough.wait(30)

    async with worker(safety=slow) as client:
        reply = asyncio.create_task(client.generate(WHITE))
        assert await asyncio.to_thread(looking.wait, 30)
        assert (await client._http.get("/livez")).status_code == 200
        assert not reply.done()
        enough.set()
        assert (await reply).status_code == 200


async def test_pictures_are_scored_where_the_request_says_so() -> None:
    async with worker(quality=brightness) as client:
        assert found(await client.generate(WHITE, BLACK)) == (None, None, None)
        assert client.sample("quality_score_count") is None
        assert found(await client.generate(WHITE, BLACK, score=True)) == (None, None, "0.5000")
        assert client.sample("quality_score_sum") == 1.0
        assert client.sample("check_seconds_count", check="quality") == 2


async def test_without_hooks_a_request_for_scores_is_served_all_the_same() -> None:
    async with worker() as client:
        reply = await client.generate(b"never opened", score=True)
        assert (reply.status_code, found(reply)) == (200, (None, None, None))


@pytest.mark.parametrize(
    ("said", "want"),
    [
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (1.5, None),
        (-0.1, None),
        ("good", None),
        (0, "0.0000"),
        (np.float32(0.5), "0.5000"),
        (1.0, "1.0000"),
    ],
    ids=str,
)
async def test_only_a_number_from_0_to_1_is_an_opinion(said: Any, want: str | None) -> None:
    async with worker(quality=lambda _prompt, _picture: said) as client:
        reply = await client.generate(WHITE, score=True)
        assert (reply.status_code, found(reply)) == (200, (None, None, want))


async def test_a_score_that_raises_is_no_opinion_and_the_mean_is_of_the_others() -> None:
    def of_white(prompt: str, picture: Image.Image) -> float:
        return 0.75 if is_bright(prompt, picture) else repeat_the_prompt(prompt, picture)

    async with worker(quality=of_white) as client:
        reply = await client.generate(WHITE, BLACK, score=True)
        assert (reply.status_code, found(reply)) == (200, (None, None, "0.7500"))


async def test_a_stream_whose_pictures_are_checked_has_no_previews() -> None:
    async with worker(safety=is_bright) as client:
        reply = await client.generate(WHITE, stream=True, partial_images=3)
        assert [name for name, _ in events(reply)] == ["image_generation.completed"]
        assert found(reply) == ("1", "0", None)
        # They are not even drawn.
        request = asyncio.create_task(
            client._http.post("/v1/generate", content=ask(stream=True, partial_images=3))
        )
        job = await client.supervisor.jobs.get()
        assert job.drawings[0].previews == 0
        answer(job, WHITE)
        await request


async def test_without_a_safety_check_a_stream_has_its_previews() -> None:
    async with worker(quality=brightness) as client:
        request = asyncio.create_task(
            client._http.post("/v1/generate", content=ask(stream=True, partial_images=1, score=True))
        )
        job = await client.supervisor.jobs.get()
        assert job.drawings[0].previews == 1
        job.tell(Preview(0, 0, b"half"))
        job.tell(Picture(0, WHITE))
        answer(job, WHITE)
        names = [name for name, _ in events(await request)]
        assert names == ["image_generation.partial_image", "image_generation.completed"]


async def test_previews_without_a_stream_are_refused_with_a_check_as_well() -> None:
    async with worker(safety=is_bright) as client:
        reply = await client._http.post("/v1/generate", content=ask(partial_images=1))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "partial_images")


async def test_a_stream_whose_first_picture_is_unsafe_never_begins() -> None:
    async with worker(safety=is_bright) as client:
        reply = await client.generate(BLACK, stream=True)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_policy_violation")
        assert found(reply) == ("1", "1", None)


async def test_a_later_unsafe_picture_is_an_error_event_and_the_rest_is_not_drawn() -> None:
    async with worker(safety=is_bright) as client:
        request = asyncio.create_task(client._http.post("/v1/generate", content=ask(stream=True, n=3)))
        job = await client.supervisor.jobs.get()
        job.tell(Picture(0, WHITE))
        job.tell(Picture(1, BLACK))
        [(first, _), (second, data)] = events(await request)
        assert (first, second) == ("image_generation.completed", "error")
        assert data["error"]["code"] == "content_policy_violation"
        assert client.supervisor.cancelled.get_nowait() is job
        assert client.sample("cancelled_total", reason="unsafe") == 1
        assert client.supervisor.count("content_policy_violation") == 1


def install(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    def installed(group: str) -> list[EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(checks, "entry_points", installed)


def test_hooks_are_found_by_the_names_of_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        EntryPoint("mine", f"{__name__}:is_bright", checks.SAFETY_GROUP),
        EntryPoint("mine", f"{__name__}:brightness", checks.QUALITY_GROUP),
    )
    assert find_hooks(CheckSettings("mine", "mine")) == Hooks(is_bright, brightness)
    assert find_hooks(CheckSettings("", "mine")) == Hooks(None, brightness)
    assert find_hooks(CheckSettings()) == Hooks(None, None)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (
            CheckSettings(safety="other"),
            "IMAGEFLEET_SAFETY_CHECK is 'other', .*installed: broken, mine, no-hook",
        ),
        (CheckSettings(quality="mine"), "IMAGEFLEET_QUALITY_SCORE is 'mine', .*installed: none"),
        (
            CheckSettings(safety="broken"),
            "IMAGEFLEET_SAFETY_CHECK: 'broken' could not be imported: ModuleNotFound",
        ),
        (CheckSettings(safety="no-hook"), "IMAGEFLEET_SAFETY_CHECK: .*:PROMPT is not callable"),
    ],
)
def test_a_hook_that_is_not_there_is_named_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, wanted: CheckSettings, says: str
) -> None:
    install(
        monkeypatch,
        EntryPoint("mine", f"{__name__}:is_bright", checks.SAFETY_GROUP),
        EntryPoint("broken", "there_is_no_such_module:at_all", checks.SAFETY_GROUP),
        EntryPoint("no-hook", f"{__name__}:PROMPT", checks.SAFETY_GROUP),
    )
    with pytest.raises(SettingsError, match=says):
        find_hooks(wanted)


@pytest.mark.parametrize(
    ("findings", "headers"),
    [
        (Findings(), {}),
        (Findings(checked=2), {"x-imagefleet-checked": "2", "x-imagefleet-unsafe": "0"}),
        (Findings(scores=[0.9, 1.0]), {"x-imagefleet-quality": "0.9500"}),
    ],
)
def test_only_what_was_looked_at_has_a_header(findings: Findings, headers: dict[str, str]) -> None:
    assert findings.headers() == headers
