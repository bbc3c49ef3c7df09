"""Events: one for each transition, and never in the way."""

from typing import Any

from imagefleet_operator.client import ApiUnreachableError, KubeClient
from imagefleet_operator.events import REPEAT_SECONDS, EventRecorder, event_body
from imagefleet_operator.kinds import POOL, Kind
from imagefleet_operator.plan.conditions import News, Transition

from tests.unit.operator.make import pool

BAD = Transition("Stalled", "True", "ChildRejected", "no")


class Posts(KubeClient):
    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.broken = False

    async def create(self, kind: Kind, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.broken:
            raise ApiUnreachableError("down")
        self.posted.append(body)
        return body


def test_an_event_says_what_it_regards_and_why() -> None:
    body = event_body(POOL, pool(), BAD, "operator-1", 1.5)
    assert body["metadata"] == {"name": f"thumbs.{1_500_000_000:x}", "namespace": "ns"}
    assert body["eventTime"] == "1970-01-01T00:00:01.500000Z"
    assert (body["type"], body["reason"]) == ("Warning", "ChildRejected")
    assert body["note"] == "Stalled is True: no"
    assert body["regarding"]["uid"] == "pool-uid"


def test_a_note_stays_under_the_limit_of_the_api_in_bytes() -> None:
    long = Transition("Ready", "False", "R", "ä" * 1000)
    note = event_body(POOL, pool(), long, "o", 0)["note"]
    assert 1000 < len(note.encode()) <= 1024


async def test_flapping_is_told_once_in_a_while() -> None:
    now = [0.0]
    posts = Posts()
    recorder = EventRecorder(posts, "o", lambda: now[0])
    for _ in range(3):
        await recorder.post(POOL, pool(), [BAD])
    assert len(posts.posted) == 1
    now[0] = REPEAT_SECONDS
    await recorder.post(POOL, pool(), [BAD])
    assert len(posts.posted) == 2


async def test_an_event_that_cannot_be_posted_is_let_go() -> None:
    posts = Posts()
    posts.broken = True
    await EventRecorder(posts, "o").post(POOL, pool(), [BAD])
    assert posts.posted == []


def test_news_is_told_in_its_own_words() -> None:
    body = event_body(POOL, pool(), News("RolloutAborted", "shapes: b was worse.", True, "t"), "o", 0)
    assert (body["type"], body["reason"], body["note"]) == (
        "Warning",
        "RolloutAborted",
        "shapes: b was worse.",
    )


async def test_the_same_news_of_another_time_is_told_again() -> None:
    posts = Posts()
    recorder = EventRecorder(posts, "o", lambda: 0.0)
    for since in ("1", "1", "2"):
        await recorder.post(POOL, pool(), [News("RolloutPaused", "shapes: waits.", False, since)])
    assert len(posts.posted) == 2
