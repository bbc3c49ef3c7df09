"""The store: records by name, the links between them, and which keys a change concerns.

Three sources feed it: watch events, the answers to our own writes, and periodic lists. An object never goes
back in time: whichever source brings the lower resourceVersion is late and is ignored, and so is one that tells
of an object that has gone.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from imagefleet_operator.kinds import MODEL, POD, POOL, Kind
from imagefleet_operator.plan.cluster_types import Child, Pod
from imagefleet_operator.plan.types import ModelSpec, Name, Parent, PoolSpec, Report
from imagefleet_operator.store.counts import Counts
from imagefleet_operator.store.demand import Demands
from imagefleet_operator.store.ledger import Ledger
from imagefleet_operator.store.loads import Loads
from imagefleet_operator.store.nodes import Nodes
from imagefleet_operator.store.records import (
    child_record,
    model_record,
    models_of_pool,
    pod_record,
    pool_record,
)

Key = tuple[Literal["pool", "model"], str, str]
"""What a pass is about: a pool or a model, its namespace and name."""
Address = tuple[str, str, str]
"""Kind, namespace and name."""
Record = Child | Pod | Parent[PoolSpec] | Parent[ModelSpec]


DEAD = 10_000
"""So many objects that have gone are remembered, by uid and last version: more than go while a list or a write is
under way."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What we know from talking to a worker, as ``plan.types.Worker`` has it."""

    uid: str
    report: Report | None = None
    silent_since: float | None = None
    policy_hash: str | None = None
    silence: str = ""
    heard_at: float = field(default=0.0, compare=False)


class Store:
    """What is known of the cluster. Every change answers with the keys that it concerns."""

    def __init__(self) -> None:
        self._records: dict[Address, Record] = {}
        self._versions: dict[Address, int] = {}
        self._pods: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        self._pools_of: dict[Name, set[str]] = defaultdict(set)
        self._trusted: dict[Address, tuple[str, int]] = {}
        self._workers: dict[Name, WorkerState] = {}
        self._dead: OrderedDict[str, int] = OrderedDict()
        self.figures = Ledger()
        """What gateways counted."""
        self.nodes = Nodes()
        self.drawn = Counts()
        """What gateways counted for budgets."""
        self.demands = Demands()
        """What callers want of each model."""
        self.loads = Loads()
        """What gateways say that came, began and waits."""

    # What is known.

    def pool(self, namespace: str, name: str) -> Parent[PoolSpec] | None:
        """The pool, or None where none is known."""
        return self._records.get((POOL.kind, namespace, name))  # type: ignore[return-value]

    def model(self, namespace: str, name: str) -> Parent[ModelSpec] | None:
        """The model, or None where none is known."""
        return self._records.get((MODEL.kind, namespace, name))  # type: ignore[return-value]

    def child(self, kind: str, namespace: str, name: str) -> Child | None:
        """The child, or None where none is known (which does not mean that there is none)."""
        return self._records.get((kind, namespace, name))  # type: ignore[return-value]

    def pod(self, namespace: str, name: str) -> Pod | None:
        """The pod, or None where none is known."""
        return self._records.get((POD.kind, namespace, name))  # type: ignore[return-value]

    def pods_of_pool(self, namespace: str, pool: str) -> list[Pod]:
        """The pods of a pool, by name."""
        return self._pods_of("pool", namespace, pool)

    def pods_of_model(self, namespace: str, model: str) -> list[Pod]:
        """The verification pods of a model, by name."""
        return self._pods_of("model", namespace, model)

    def pools_on_node(self, node: str) -> set[Key]:
        """The pools that have workers on a node."""
        pods = (r for r in self._records.values() if isinstance(r, Pod) and r.node == node)
        return {("pool", pod.namespace, pod.pool) for pod in pods if pod.pool}

    def pools_of_model(self, namespace: str, model: str) -> list[str]:
        """The names of the pools that name a model."""
        return sorted(self._pools_of.get((namespace, model), ()))

    def parent_keys(self) -> list[Key]:
        """All pools and models."""
        kinds: dict[str, Literal["pool", "model"]] = {POOL.kind: "pool", MODEL.kind: "model"}
        return [(kinds[kind], ns, name) for kind, ns, name in self._records if kind in kinds]

    def parents(self, kind: str) -> Iterable[Parent[Any]]:
        """All pools, or all models."""
        return (r for (k, _, _), r in self._records.items() if k == kind and isinstance(r, Parent))

    def counts(self) -> Mapping[str, int]:
        """How many objects of each kind are remembered."""
        found: dict[str, int] = defaultdict(int)
        for kind, _, _ in self._records:
            found[kind] += 1
        return found

    # What we know from talking to workers, and of our own writes.

    def worker(self, pod: Pod) -> WorkerState:
        """What we know from talking to this very pod; a pod of the same name before it does not count."""
        state = self._workers.get((pod.namespace, pod.name))
        return state if state is not None and state.uid == pod.uid else WorkerState(pod.uid)

    def put_worker(self, pod: Pod, state: WorkerState) -> set[Key]:
        """Remember what a worker said, unless its pod has gone or is no longer ready by now."""
        current = self.pod(pod.namespace, pod.name)
        if current is None or current.uid != pod.uid or not current.ready:
            return set()
        known = self.worker(pod) == state
        self._workers[pod.namespace, pod.name] = state
        if known:
            return set()
        pool = self.pool(pod.namespace, pod.pool)
        return _keys_of(pod) | (
            self._concerned((POOL.kind, pod.namespace, pod.pool), pool) if pool else set()
        )

    def trust(self, child: Child) -> None:
        """The fields that we own of it now are those of our last apply: losing one is drift."""
        self._trusted[child.kind, child.namespace, child.name] = (child.uid, child.fields_hash)

    def trusted(self, child: Child | None) -> int | None:
        """The hash of the fields that we owned after our last apply; None where we have made none."""
        if child is None:
            return None
        uid, fields = self._trusted.get((child.kind, child.namespace, child.name), ("", 0))
        return fields if uid == child.uid else None

    # Changes.

    def put(self, kind: Kind, obj: Mapping[str, Any]) -> set[Key]:
        """Take in an object as it was created, changed, listed or answered."""
        address = _address(kind, obj)
        version = _version(obj)
        gone = self._dead.get(obj["metadata"]["uid"], -1)
        if version < self._versions.get(address, -1) or version <= gone:
            return set()
        self._versions[address] = version
        return self._replace(address, _record(kind, obj))

    def remove(self, kind: Kind, obj: Mapping[str, Any]) -> set[Key]:
        """Take in that an object was deleted."""
        address = _address(kind, obj)
        if _version(obj) < self._versions.get(address, -1):
            return set()
        self._bury(obj["metadata"]["uid"], _version(obj))
        return self._drop(address)

    def forget(self, address: Address, uid: str) -> set[Key]:
        """Take in that an object was found to be gone; one of the same name that came since stays."""
        self._bury(uid, self._versions.get(address, 0))
        known = self._records.get(address)
        return self._drop(address) if known is not None and known.uid == uid else set()

    def uids(self, kind: Kind) -> Mapping[Address, str]:
        """The uids of all objects of a kind that are known."""
        return {address: record.uid for address, record in self._records.items() if address[0] == kind.kind}

    def _bury(self, uid: str, version: int) -> None:
        """Only what is older counts as dead: a child whose label somebody took is told of as deleted too, and is the
        same one when we have put the label back."""
        self._dead[uid] = version
        if len(self._dead) > DEAD:
            self._dead.popitem(last=False)

    def _replace(self, address: Address, record: Record) -> set[Key]:
        old = self._records.get(address)
        if old == record:
            return set()
        keys: set[Key] = set()
        if old is not None:
            keys = self._unlink(address, old)
        self._records[address] = record
        if isinstance(record, Pod) and not record.ready:
            # Its container may be another one when it is ready again: what it said before does not count then.
            self._workers.pop((record.namespace, record.name), None)
        keys |= self._link(address, record)
        if old is not None and _same_for_others(old, record):
            keys &= {("pool" if address[0] == POOL.kind else "model", *address[1:])}
        return keys

    def _drop(self, address: Address) -> set[Key]:
        old = self._records.pop(address, None)
        self._versions.pop(address, None)
        self._trusted.pop(address, None)
        if old is None:
            return set()
        keys = self._unlink(address, old)
        if isinstance(old, Pod):
            self._workers.pop((old.namespace, old.name), None)
        if address[0] == POOL.kind:
            self.figures.forget_pool(old.namespace, old.name)
            self.demands.forget_pool(old.namespace, old.name)
            self.loads.forget_pool(old.namespace, old.name)
        return keys

    def _link(self, address: Address, record: Record) -> set[Key]:
        if isinstance(record, Pod):
            for key in _keys_of(record):
                self._pods[key].add(record.name)
        for model in _models_of(record):
            self._pools_of[record.namespace, model].add(record.name)
        return self._concerned(address, record)

    def _unlink(self, address: Address, record: Record) -> set[Key]:
        keys = self._concerned(address, record)
        if isinstance(record, Pod):
            for key in _keys_of(record):
                _discard(self._pods, key, record.name)
        for model in _models_of(record):
            _discard(self._pools_of, (record.namespace, model), record.name)
        return keys

    def _concerned(self, address: Address, record: Record) -> set[Key]:
        """A pool's change concerns its models too (copies), a model's the pools that name it."""
        kind, namespace, name = address
        if kind == POOL.kind:
            models: set[Key] = {("model", namespace, model) for model in _models_of(record)}
            return models | {("pool", namespace, name)}
        if kind == MODEL.kind:
            pools: set[Key] = {
                ("pool", namespace, pool) for pool in self._pools_of.get((namespace, name), ())
            }
            return pools | {("model", namespace, name)}
        return _keys_of(record)

    def _pods_of(self, kind: str, namespace: str, name: str) -> list[Pod]:
        names = sorted(self._pods.get((kind, namespace, name), ()))
        pods = (self.pod(namespace, pod) for pod in names)
        return [pod for pod in pods if pod is not None]


def _discard(index: dict[Any, set[str]], key: Any, name: str) -> None:
    index[key].discard(name)
    if not index[key]:
        del index[key]


def _same_for_others(old: Record, new: Record) -> bool:
    """Whether a pool or model changed in nothing but what only its own plan looks at: most writes of a
    status."""
    if isinstance(old, Parent) and isinstance(new, Parent):
        return _for_others(old) == _for_others(new)
    return False


def _for_others(parent: Parent[Any]) -> tuple[Any, ...]:
    """Of a pool its spec and which models serve; of a model also its status, how many workers hold it excepted."""
    if isinstance(parent.spec, PoolSpec):
        return parent.uid, parent.deleting, parent.spec, models_of_pool(parent)
    told = [c for c in parent.status.get("conditions") or () if c.get("type") != "Cached"]
    return parent.uid, parent.deleting, parent.spec, {**parent.status, "copies": None, "conditions": told}


def _keys_of(record: Record) -> set[Key]:
    """The pool or model that a pod or a child is labelled with; none for pools and models themselves."""
    if isinstance(record, Parent):
        return set()
    pool: set[Key] = {("pool", record.namespace, record.pool)} if record.pool else set()
    model: set[Key] = {("model", record.namespace, record.model)} if record.model else set()
    return pool | model


def _models_of(record: Record) -> tuple[str, ...]:
    """The models that a pool is about; none for what is no pool."""
    if not isinstance(record, Parent) or isinstance(record.spec, ModelSpec):
        return ()
    return models_of_pool(record)  # type: ignore[arg-type]


def _address(kind: Kind, obj: Mapping[str, Any]) -> Address:
    return kind.kind, obj["metadata"]["namespace"], obj["metadata"]["name"]


def _version(obj: Mapping[str, Any]) -> int:
    """Resource versions of one object can be compared since Kubernetes 1.35, and always could with etcd
    behind."""
    return int(obj["metadata"].get("resourceVersion") or 0)


def _record(kind: Kind, obj: Mapping[str, Any]) -> Record:
    if kind is POOL:
        return pool_record(obj)
    if kind is MODEL:
        return model_record(obj)
    return pod_record(obj) if kind is POD else child_record(kind.kind, obj)
