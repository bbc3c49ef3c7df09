"""The command ``imagefleet``: ``imagefleet simulate`` says what a choice of ``scaling`` values would hold and how
long requests would wait."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from imagefleet_operator.plan.scaling import ScalingSpec
from imagefleet_operator.simulate.bound import lower_bound
from imagefleet_operator.simulate.fleets import PEERS, ours, pool_for_each, shared
from imagefleet_operator.simulate.loads import LOADS
from imagefleet_operator.simulate.report import Summary, as_json, plot, summary, table
from imagefleet_operator.simulate.trace import Trace, TraceError, as_many, faster, read_trace
from imagefleet_operator.simulate.world import Outcome, World

OURS = "imagefleet"
Run = Callable[[], Outcome]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 where an argument or a trace is wrong, which a message explains."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        _simulate(arguments)
    except (TraceError, ValueError, OSError) as error:
        print(f"imagefleet: {error}", file=sys.stderr)  # noqa: T201 - the command's output
        return 2
    return 0


def _simulate(arguments: argparse.Namespace) -> None:
    trace = faster(_trace(arguments), arguments.times)
    if arguments.callers > 1:
        trace = as_many(trace, arguments.callers, arguments.seed)
    spec, world = _spec(arguments), _world(arguments)
    bound = lower_bound(trace, spec.lead, spec.wait_seconds, spec.objective) / 3600
    runs = {OURS: lambda: ours(trace, spec, world, arguments.day_seconds), **_peers(arguments, trace, world)}
    outcomes = {name: run() for name, run in runs.items()}
    summaries = [summary(name, o, world, arguments.cost_per_gpu_hour) for name, o in outcomes.items()]
    _print(summaries, bound, arguments.json)
    if arguments.plot:
        lines = {name: outcome.replicas for name, outcome in outcomes.items()}
        arguments.plot.write_text(plot(lines, "Workers held"), encoding="utf-8")


def _print(summaries: Sequence[Summary], bound: float, as_object: bool) -> None:
    text = json.dumps(as_json(summaries, bound), indent=2) if as_object else table(summaries, bound)
    print(text)  # noqa: T201 - the command's output


def _trace(arguments: argparse.Namespace) -> Trace:
    if arguments.trace is not None:
        named = {f: getattr(arguments, f"{f}_column") for f in ("arrival", "model", "seconds")}
        return read_trace(arguments.trace, {f: c for f, c in named.items() if c})
    trace = LOADS[arguments.load](arguments.workers, arguments.hours * 3600, arguments.seed)
    if not trace:
        raise TraceError("the load has no request; ask for more --hours or --workers")
    return trace


def _spec(arguments: argparse.Namespace) -> ScalingSpec:
    if arguments.max_replicas < arguments.min_replicas:
        raise ValueError("--max-replicas is less than --min-replicas")
    return ScalingSpec(
        min_replicas=arguments.min_replicas,
        max_replicas=arguments.max_replicas,
        target_utilization=arguments.target_utilization,
        wait_seconds=arguments.wait_seconds,
        objective=arguments.objective,
        start_seconds=arguments.start_seconds,
        load_seconds=arguments.load_seconds,
    )


def _world(arguments: argparse.Namespace) -> World:
    return World(
        start_seconds=arguments.start_seconds,
        first_load_seconds=arguments.load_seconds,
        load_seconds=arguments.load_seconds,
        resident=arguments.resident_models,
        wait_seconds=arguments.wait_seconds,
        seed=arguments.seed,
    )


def _peers(arguments: argparse.Namespace, trace: Trace, world: World) -> dict[str, Run]:
    """With their defaults: a pool for each model, as they are run, and on shared workers like ours."""
    alone = World(
        start_seconds=arguments.start_seconds,
        first_load_seconds=arguments.fresh_load_seconds,
        load_seconds=arguments.fresh_load_seconds,
        resident=1,
        wait_seconds=arguments.wait_seconds,
        seed=arguments.seed,
    )
    runs: dict[str, Run] = {}
    for name in arguments.peers:
        build, targets, least = PEERS[name]
        runs[f"{name}, pool a model"] = lambda b=build, t=targets[0], n=least: pool_for_each(  # type: ignore[misc]
            trace, lambda: b(t, n), alone
        )
        runs[f"{name}, shared workers"] = lambda b=build, t=targets[0], n=least: shared(  # type: ignore[misc]
            trace, b(t, n), world
        )
    return runs


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of at least 0")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _count(text: str) -> int:
    value = _number(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagefleet", description="Tools for fleets of image-generation models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    simulate = commands.add_parser(
        "simulate",
        help="what a choice of scaling values would hold, and how long requests would wait",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = simulate.add_argument
    add(
        "trace",
        nargs="?",
        type=Path,
        help="CSV with the columns arrival, model, seconds (may be gzipped); else --load",
    )
    for column in ("arrival", "model", "seconds"):
        add(f"--{column}-column", help=f"the trace's column for '{column}', where it has another name")
    add("--load", choices=sorted(LOADS), default="diurnal", help="a load that is made instead of a trace")
    add("--workers", type=_positive, default=4.0, help="workers that the made load keeps busy in the mean")
    add("--hours", type=_positive, default=24.0, help="length of the made load")
    add("--seed", type=int, default=0, help="of the made load and of estimates' errors")
    add("--times", type=_positive, default=1.0, help="how many times as fast requests arrive")
    add("--callers", type=_count, default=1, help="how many times as many callers there are")
    add("--day-seconds", type=_positive, default=86_400.0, help="length of the daily pattern")
    spec = ScalingSpec()
    add("--min-replicas", type=_count, default=spec.min_replicas, help="scaling.minReplicas")
    add("--max-replicas", type=_count, default=spec.max_replicas, help="scaling.maxReplicas")
    add(
        "--target-utilization", type=_share, default=spec.target_utilization, help="scaling.targetUtilization"
    )
    add(
        "--wait-seconds",
        type=_positive,
        default=spec.wait_seconds,
        help="a request is in time if it starts this soon",
    )
    add("--objective", type=_share, default=spec.objective, help="share of requests that should be in time")
    add("--start-seconds", type=_number, default=spec.start_seconds, help="until a new worker is ready")
    add("--load-seconds", type=_positive, default=spec.load_seconds, help="a model's load on a worker")
    add(
        "--fresh-load-seconds",
        type=_positive,
        default=22.7,
        help="a model's load in a pod of its own (peers)",
    )
    add("--resident-models", type=_count, default=World().resident, help="models that a worker holds at once")
    add("--cost-per-gpu-hour", type=_number, default=2.5, help="what a GPU-hour is paid with")
    add("--peers", nargs="*", choices=sorted(PEERS), default=[], help="other policies to compare")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--plot", type=Path, help="write the workers held over time to this SVG file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
