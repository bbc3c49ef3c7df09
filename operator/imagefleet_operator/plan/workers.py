"""What a pool's children are to be, and what verifies a model: the values that the templates are filled
with."""

from dataclasses import dataclass

from imagefleet_operator.plan.types import Json, ModelSpec, Parent, PoolObserved

AUTOMATIC_CLASS = "AutoPipelineForText2Image"
"""Takes any class that the folder names, so there is nothing to check."""


@dataclass(frozen=True, slots=True)
class WorkersSpec:
    """Everything that decides what a pool's Deployment, Service, PodDisruptionBudget and ServiceAccount look
    like."""

    namespace: str
    pool: str
    uid: str
    image: str
    replicas: int
    accelerator_resource: str
    accelerator_count: int
    resources: Json
    max_request_seconds: int
    claims: tuple[str, ...]
    pod_template: Json

    @property
    def name(self) -> str:
        """The name of every child."""
        return f"{self.pool}-workers"


@dataclass(frozen=True, slots=True)
class VerifySpec:
    """Everything that decides what a model's verification Job looks like."""

    namespace: str
    model: str
    uid: str
    image: str
    arguments: tuple[str, ...]
    claims: tuple[str, ...]


def workers_spec(observed: PoolObserved, default_image: str) -> WorkersSpec | None:
    """What a pool's children are to be; None where its spec cannot be read.

    Claims follow the models that the pool names: a model on another claim restarts the workers, one after the
    other.
    """
    pool = observed.pool
    if pool.spec is None:
        return None
    claims = {m.spec.claim for m in observed.models.values() if m is not None and m.spec is not None}
    return WorkersSpec(
        namespace=pool.namespace,
        pool=pool.name,
        uid=pool.uid,
        image=pool.spec.image or default_image,
        replicas=pool.spec.replicas,
        accelerator_resource=pool.spec.accelerator_resource,
        accelerator_count=pool.spec.accelerator_count,
        resources=pool.spec.resources,
        max_request_seconds=pool.spec.max_request_seconds,
        claims=tuple(sorted(claim for claim in claims if claim)),
        pod_template=pool.spec.pod_template,
    )


def verify_spec(model: Parent[ModelSpec], image: str) -> VerifySpec | None:
    """What a model's verification Job is to be; None where its spec cannot be read."""
    if model.spec is None:
        return None
    arguments = ["verify", "--uri", model.spec.uri]
    if model.spec.digest:
        arguments += ["--digest", model.spec.digest]
    class_name = model.spec.pipeline.get("className", AUTOMATIC_CLASS)
    if class_name != AUTOMATIC_CLASS:
        arguments += ["--class-name", class_name]
    claims = (model.spec.claim,) if model.spec.claim else ()
    return VerifySpec(model.namespace, model.name, model.uid, image, tuple(arguments), claims)
