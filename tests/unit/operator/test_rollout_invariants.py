"""What holds of any rollout, whatever people, models and workers do, in any order. The operator restarts between any
two passes: the status is all that the next one knows."""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from imagefleet_operator.api.inference_pool_status import InferencePoolStatus
from imagefleet_operator.plan.pool import plan_pool
from imagefleet_operator.plan.rollout_types import (
    AnalysisSpec,
    Analyze,
    Experiment,
    Mirror,
    OnUnsafe,
    Pause,
    RolloutSpec,
    RolloutStep,
    SetWeight,
    Shadow,
    Slo,
)
from imagefleet_operator.plan.types import PoolModel

from tests.unit.operator.rollout_world import Behaviour, Fleet

MODELS = ("a", "b", "c")
KINDS = (
    Behaviour(),
    Behaviour(errors=0.5),
    Behaviour(quality=0.5),
    Behaviour(unsafe=0.5),
    Behaviour(loads=False),
    Behaviour(exists=False),
)
steps_strategy = st.lists(
    st.sampled_from(
        (SetWeight(0), SetWeight(5), SetWeight(50), SetWeight(100), Mirror(20), Pause(3), Pause(), Analyze())
    ),
    max_size=5,
).map(tuple)
SLO = Slo(success_rate=0.99, safety_pass_rate=0.95, on_unsafe=OnUnsafe.SUSPEND)


class AnyRollout(RuleBasedStateMachine):
    """One entry of a pool, and everything that can happen to it."""

    @initialize(
        workers=st.integers(1, 3),
        room=st.integers(1, 2),
        copies=st.integers(0, 3),
        slo=st.sampled_from((Slo(), SLO)),
        steps=steps_strategy,
        ticks=st.integers(0, 12),
    )
    def begin(
        self, workers: int, room: int, copies: int, slo: Slo, steps: tuple[RolloutStep, ...], ticks: int
    ) -> None:
        """A rollout somewhere on its way."""
        entry = PoolModel("shapes", "a", min_resident=copies, slo=slo)
        self.world = Fleet(entry, workers=workers, room=room, **{m: Behaviour() for m in MODELS})
        self.world.run(4)
        self.change_the_steps(steps)
        self.world.set_entry(model="b")
        self.world.run(ticks)
        self.look()

    @rule(name=st.sampled_from(MODELS))
    def engines_crash(self, name: str) -> None:
        for worker in self.world.workers:
            worker.states.pop(name, None)
        self.look()

    @rule(steps=steps_strategy)
    def change_the_steps(self, steps: tuple[RolloutStep, ...]) -> None:
        spec = RolloutSpec(steps, AnalysisSpec(min_requests=20, max_wait_seconds=30))
        self.world.set_entry(rollout=spec)
        self.look()

    @rule(name=st.sampled_from(MODELS))
    def name_a_model(self, name: str) -> None:
        self.world.set_entry(model=name)
        self.look()

    @rule(name=st.sampled_from(MODELS), kind=st.sampled_from(KINDS))
    def make_a_model(self, name: str, kind: Behaviour) -> None:
        self.world.kinds[name] = kind
        self.look()

    @rule(
        verb=st.sampled_from(
            ("promote", "promote-full", "pause", "resume", "abort", "retry", "unsuspend", "x")
        )
    )
    def say(self, verb: str) -> None:
        self.world.say(f"{verb} shapes")
        self.look()

    @rule(pool=st.booleans(), entry=st.booleans())
    def suspend(self, pool: bool, entry: bool) -> None:
        self.world.spec = replace(self.world.spec, suspend=pool)
        self.world.set_entry(suspend=entry)
        self.look()

    @rule(arm=st.sampled_from(("b", "c")), seconds=st.sampled_from((None, 5)), there=st.booleans())
    def experiment(self, arm: str, seconds: float | None, there: bool) -> None:
        found = (Experiment("x", ((arm, 20),), seconds),) if there else ()
        self.world.set_entry(experiments=found, shadow=Shadow("c", 10) if there else None)
        self.look()

    @rule()
    def a_worker_comes(self) -> None:
        if len(self.world.workers) < 4:
            self.world.add_worker()
        self.look()

    @rule()
    def a_worker_goes(self) -> None:
        self.world.workers = self.world.workers[1:]
        self.look()

    @rule(gateways=st.booleans(), rate=st.sampled_from((0, 20)))
    def callers_change(self, gateways: bool, rate: int) -> None:
        self.world.gateways, self.world.rate = gateways, rate
        self.look()

    @rule(ticks=st.integers(1, 20), seconds=st.sampled_from((1.0, 1.0, 30.0)))
    def time_passes(self, ticks: int, seconds: float) -> None:
        for _ in range(ticks):
            for worker in self.world.workers:
                worker.tick(self.world.kinds)
            self.world._serve()
            self.world.now += seconds
            self.look()

    def look(self) -> None:
        """A pass, with what holds before its policies reach the workers."""
        world = self.world
        before = world.rollout
        seen = world.observed()
        plan = plan_pool(seen, world.now)
        again = plan_pool(replace(seen, pool=replace(seen.pool, status=plan.status)), world.now)
        assert again.status == plan.status
        InferencePoolStatus.model_validate(plan.status)
        world.look()
        retried = world.status.get("command", {}).get("value", "").startswith("retry")
        if (
            before.get("phase") == "Aborted"
            and world.spec.models[0].model == before["abortedModel"]
            and not retried
        ):
            assert world.rollout.get("abortedModel") == before["abortedModel"]

    @invariant()
    def shares_sum_to_all_or_nobody_is_answered(self) -> None:
        shares = self.world.traffic
        if self.suspended():
            assert shares == {}
        else:
            assert sum(shares.values()) == 100
            assert min(shares.values()) > 0

    def suspended(self) -> bool:
        world = self.world
        return world.spec.suspend or world.spec.models[0].suspend or self.main() in self.unsafe()

    def unsafe(self) -> set[str]:
        held = (
            s
            for s in self.world.status.get("suspensions", ())
            if s["reason"] == "Unsafe" and "until" not in s
        )
        return {s["model"] for s in held}

    def main(self) -> str:
        """The model that the entry stands on."""
        rollout = self.world.rollout
        taken = rollout.get("allAtOnce") and rollout["weight"] and rollout["phase"] != "Aborted"
        found: str = self.world.entry["canary"] if taken else self.world.entry["stable"]
        return found

    @invariant()
    def nothing_suspended_or_aborted_has_traffic(self) -> None:
        assert not self.unsafe() & self.world.traffic.keys()
        arms = {m for e in self.world.spec.models[0].experiments for m, _ in e.arms}
        assert self.world.rollout.get("abortedModel") not in self.world.traffic.keys() - arms
        assert not self.unsafe() & {m["model"] for m in self.world.entry.get("mirror", ())}

    @invariant()
    def nobody_waits_for_a_model_while_another_is_there(self) -> None:
        held = {m for m in self.world.traffic if self.seen_resident(m)}
        assert held in (set(), set(self.world.traffic))
        if self.world.traffic and self.seen_resident(self.main()):
            assert held

    def seen_resident(self, name: str) -> bool:
        return self.world.kinds[name].exists and self.world.resident(name) > 0

    @invariant()
    def a_canary_never_makes_a_pool_unready(self) -> None:
        placed = self.world.condition("ModelsPlaced")
        if placed.startswith("False") and "TooFew" not in placed and "NoWorkers" not in placed:
            copies = self.world.spec.models[0].min_resident
            assert not self.seen_resident(self.main()) or self.world.resident(self.main()) < copies

    def teardown(self) -> None:
        """Naming the stable model again ends everything, in one pass; and at rest nothing is written."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.spec = replace(world.spec, suspend=False, replicas=len(world.workers))
        stable = world.entry["stable"]
        world.kinds[stable] = Behaviour()
        world.set_entry(model=stable, suspend=False, experiments=(), shadow=None)
        world.look()
        assert (world.rollout, world.entry["stable"]) == ({}, stable)
        assert "canary" not in world.entry
        world.rate = 0
        world.run(8)
        at_rest = world.status
        world.run(3)
        assert world.status == at_rest
        assert not world.plan.workers or not world.workers


AnyRollout.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyRollout = AnyRollout.TestCase
