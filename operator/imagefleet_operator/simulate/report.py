"""What a simulation tells a person: figures for a table or JSON, and a plot as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

from imagefleet_operator.simulate.world import Outcome, World


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures."""

    name: str
    requests: int
    in_time: float
    """Share of the requests that started within ``wait_seconds``."""
    wait_p50: float
    wait_p99: float
    wait_most: float
    gpu_hours: float
    """Held, from a worker's creation to its end."""
    busy_hours: float
    load_hours: float
    cold_starts: int
    """Requests that waited for a worker to start, or for their model to load."""
    workers_started: int
    most_workers: int
    cost: float


def summary(name: str, outcome: Outcome, world: World, cost_per_hour: float) -> Summary:
    """Figures of a run. ``cost_per_hour`` is what a GPU-hour is paid with."""
    waits = sorted(outcome.waits)
    return Summary(
        name=name,
        requests=len(waits),
        in_time=outcome.within(world.wait_seconds),
        wait_p50=quantile(waits, 0.5),
        wait_p99=quantile(waits, 0.99),
        wait_most=quantile(waits, 1.0),
        gpu_hours=outcome.held / 3600,
        busy_hours=outcome.busy / 3600,
        load_hours=outcome.loading / 3600,
        cold_starts=outcome.cold,
        workers_started=outcome.created,
        most_workers=max((n for _, n in outcome.replicas), default=0),
        cost=outcome.held / 3600 * cost_per_hour,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is at least ``share`` of all; 0 of none. Example: 0.5 of (1, 2, 3) is 2."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def table(summaries: Sequence[Summary], bound_hours: float) -> str:
    """Lines of text, one for each run."""
    columns = ("in time", "p99 wait", "GPU-hours", "of bound", "busy", "cold", "started", "cost")
    head = f"{'policy':<26}" + "".join(f"{c:>11}" for c in columns)
    lines = [_line(s, bound_hours) for s in summaries]
    return "\n".join([head, *lines, f"{'at least, knowing all':<26}{bound_hours:>33.1f}"])


def _line(run: Summary, bound_hours: float) -> str:
    over = run.gpu_hours / bound_hours if bound_hours else 0.0
    busy = run.busy_hours / run.gpu_hours if run.gpu_hours else 0.0
    return (
        f"{run.name:<26}{run.in_time:>11.2%}{run.wait_p99:>9.1f} s{run.gpu_hours:>11.1f}{over:>11.2f}"
        f"{busy:>11.0%}{run.cold_starts:>11}{run.workers_started:>11}{run.cost:>11.2f}"
    )


def as_json(summaries: Sequence[Summary], bound_hours: float) -> dict[str, object]:
    """The same for machines."""
    return {"boundGpuHours": bound_hours, "policies": [asdict(s) for s in summaries]}


WIDTH, HEIGHT, MARGIN = 960, 360, 48
COLOURS = ("#1b6ca8", "#d1495b", "#3c896d", "#8d6a9f", "#b8860b", "#666666")
COLUMNS = 480
"""Points of a line: the most of each interval, so that no peak is lost."""


def plot(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """An SVG of numbers that hold until they change, each a list of (seconds, value) in order of time."""
    end = max((points[-1][0] for points in lines.values() if points), default=1.0) or 1.0
    begin = min((points[0][0] for points in lines.values() if points), default=0.0)
    top = max((v for points in lines.values() for _, v in points), default=1.0) or 1.0
    span = max(end - begin, 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="20">{escape(title)}</text>',
        f'<text x="4" y="{MARGIN}">{top:g}</text><text x="4" y="{HEIGHT - MARGIN}">0</text>',
        f'<text x="{WIDTH - 2 * MARGIN}" y="{HEIGHT - 16}">{span / 3600:.1f} hours</text>',
    ]
    for k, (name, points) in enumerate(lines.items()):
        colour = COLOURS[k % len(COLOURS)]
        path = " ".join(
            f"{MARGIN + (WIDTH - 2 * MARGIN) * (t - begin) / span:.1f},"
            f"{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * v / top:.1f}"
            for t, v in _columns(points, begin, span)
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        parts.append(
            f'<text x="{WIDTH - 4 * MARGIN}" y="{20 + 14 * k}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _columns(points: Sequence[tuple[float, float]], begin: float, span: float) -> list[tuple[float, float]]:
    columns = []
    at, value = 0, 0.0
    for k in range(COLUMNS):
        until = begin + span * (k + 1) / COLUMNS
        most = value
        while at < len(points) and points[at][0] <= until:
            value = points[at][1]
            most = max(most, value)
            at += 1
        columns.append((begin + span * k / COLUMNS, most))
    return columns
