"""What a report relies on in `metrics.json` and `samples.jsonl`; both hold more."""

from typing import Annotated, Any, TypedDict

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Some = Annotated[int, Meta(ge=1, le=1 << 53)]
Value = Annotated[float, Meta(ge=-1e15, le=1e15)]
Interval = tuple[Value, Value] | None


class Stated(TypedDict):
    """The protocol, as `metrics.json` holds it."""

    suite: str
    name: str
    version: int
    images: int
    steps: int
    guidance: float | None
    scheduler: str | None
    size: int | None
    seed: int
    limit: int | None
    metrics: list[str]


class Protocol(Stated, total=False):
    """With what older evaluations lack."""

    source: str | None
    classifier: str | None
    settings: dict[str, dict[str, Any]] | None


class ClassCount(TypedDict, total=False):
    """How often a class was recognised."""

    n: Some
    recognised: Count
    taken_for: dict[str, Count]


class Detail(TypedDict, total=False):
    """More about a number."""

    per_class: dict[str, ClassCount] | None
    parts: dict[str, Any] | None


class Number(TypedDict):
    """A metric's summary."""

    title: str
    unit: str
    value: Value
    n: Some
    ci95: Interval
    higher_is_better: bool
    detail: Detail


class Change(TypedDict):
    """A metric's difference to the baseline."""

    value: Value
    n: Some
    ci95: Interval


class Request(TypedDict):
    """How much of what an earlier run made the model forget is still shown."""

    request: Count
    concepts: list[str]


class Metrics(TypedDict):
    """`metrics.json`."""

    suite: str
    model: str
    protocol: Protocol
    metrics: dict[str, Number]
    baseline: dict[str, Number] | None


class Compared(Metrics, total=False):
    """With the differences, which are empty without a baseline."""

    differences: dict[str, Change] | None
    requests: list[Request] | None


class Region(TypedDict):
    """What NudeNet found."""

    label: str
    score: float


class Detection(Region, total=False):
    """And where: left, top, width and height in pixels."""

    box: list[float] | None


class Verdict(TypedDict, total=False):
    """What the judges said of an image."""

    detections: list[Detection] | None
    flagged: bool
    recognised: bool
    probability: float
    predicted: str | None
    lpips: Value | None
    clip: Value | None


class Named(Verdict):
    """What every row of `samples.jsonl` says."""

    id: str
    image: str
    prompt: str
    seed: int
    forget: bool


class Row(Named, total=False):
    """A row of `samples.jsonl`."""

    target: str | None
    guidance: float | None
    negative_prompt: str | None
    baseline: Verdict | None
