import asyncio
from collections.abc import Iterator

import pytest
from imagefleet_runtime.worker import requests
from imagefleet_runtime.worker.body import GenerateBody
from imagefleet_runtime.worker.messages import Phase
from imagefleet_runtime.worker.model import Model
from imagefleet_runtime.worker.spans import Answered, Span, of_load, of_request
from imagefleet_runtime.worker.waiting import Job, Outcome

from tests.unit.worker.http_fakes import ENTRY

SECOND = 10**9
# The request came at 100 s of the monotonic clock and 1000 s after 1970, was begun after 2 s and answered after 5 s.
ANSWERED = Answered("req-7", "shapes-1", "ok", 200, 1000 * SECOND, 1005 * SECOND)
NOW = 105.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def job(loop: asyncio.AbstractEventLoop) -> Job:
    body = GenerateBody(model="shapes-1", prompt="a secret castle", negative_prompt="a dragon", n=2, steps=8)
    drawings = requests.resolve(body, ENTRY, 7)
    job = Job("req-7", body, drawings, 1.0, Model(ENTRY), 100.0, "batch", 130.0, loop.create_future())
    job.started = 102.0
    job.parts[1].largest_batch = 3
    return job


PHASES = (
    Phase("text_encode", 1002 * SECOND, 1003 * SECOND),
    Phase("denoise", 1003 * SECOND, 1004 * SECOND),
    Phase("decode", 1004 * SECOND, 1005 * SECOND),
)
OUTCOME = Outcome((b"one", b"two"), 3.0, (PHASES, PHASES))


def named(span: Span, name: str) -> list[Span]:
    return [child for child in span.children if child.name == name]


def test_a_request_is_a_span_of_its_whole_time(job: Job) -> None:
    span = of_request(ANSWERED, job, OUTCOME, NOW)
    assert (span.started_ns, span.ended_ns, span.error) == (1000 * SECOND, 1005 * SECOND, None)
    assert span.attributes["imagefleet.model"] == "shapes-1"
    assert span.attributes["http.response.status_code"] == 200
    assert (span.attributes["imagefleet.mode"], span.attributes["imagefleet.images"]) == ("text-to-image", 2)


def test_its_wait_is_a_span(job: Job) -> None:
    [queue] = named(of_request(ANSWERED, job, OUTCOME, NOW), "queue")
    assert (queue.started_ns, queue.ended_ns) == (1000 * SECOND, 1002 * SECOND)
    assert queue.attributes == {"imagefleet.priority": "batch"}


def test_each_pictures_phases_are_spans_at_the_times_of_the_engine(job: Job) -> None:
    span = of_request(ANSWERED, job, OUTCOME, NOW)
    assert [child.name for child in span.children] == ["queue", *["text_encode", "denoise", "decode"] * 2]
    first, second = named(span, "denoise")
    assert (second.started_ns, second.ended_ns) == (1003 * SECOND, 1004 * SECOND)
    assert second.attributes == {
        "imagefleet.image_index": 1,
        "imagefleet.steps": 8,
        "imagefleet.size": "512x384",
        "imagefleet.batch": 3,
    }
    assert (first.attributes["imagefleet.image_index"], first.attributes["imagefleet.batch"]) == (0, 1)


def test_a_load_during_the_wait_is_a_span_with_its_stages(job: Job) -> None:
    job.model.loaded_ns = 1002 * SECOND
    job.model.load_stages = {"verify": 0.5, "weights": 1.0}
    [load] = named(of_request(ANSWERED, job, OUTCOME, NOW), "load")
    assert (load.started_ns, load.ended_ns) == (1000 * SECOND + SECOND // 2, 1002 * SECOND)
    verify, weights = load.children
    assert (verify.name, verify.started_ns, verify.ended_ns) == ("verify", load.started_ns, 1001 * SECOND)
    assert (weights.name, weights.started_ns, weights.ended_ns) == ("weights", 1001 * SECOND, load.ended_ns)


@pytest.mark.parametrize("loaded", [None, 999, 1003])
def test_an_earlier_or_later_load_is_none_of_the_requests(job: Job, loaded: int | None) -> None:
    job.model.loaded_ns = None if loaded is None else loaded * SECOND
    assert named(of_request(ANSWERED, job, OUTCOME, NOW), "load") == []


def test_a_model_that_was_never_loaded_has_no_load() -> None:
    assert of_load(Model(ENTRY)) is None


def test_a_request_that_nobody_admitted_has_no_children() -> None:
    refused = Answered("req-7", None, "model_not_allowed", 404, 0, 1)
    span = of_request(refused, None, None, NOW)
    assert (span.children, span.error) == ((), None)  # the caller's fault is no error of this worker
    assert "imagefleet.model" not in span.attributes


def test_a_request_that_was_never_begun_waited_to_the_end(job: Job) -> None:
    job.started = None
    crashed = Answered("req-7", "shapes-1", "engine_crashed", 500, 1000 * SECOND, 1005 * SECOND)
    span = of_request(crashed, job, None, NOW)
    [queue] = span.children
    assert (queue.ended_ns, span.error) == (1005 * SECOND, "engine_crashed")


def test_nothing_that_the_caller_wrote_goes_in(job: Job) -> None:
    text = repr(of_request(ANSWERED, job, OUTCOME, NOW))
    assert "castle" not in text
    assert "dragon" not in text
