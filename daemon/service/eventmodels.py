"""The events as a client reads them: one frozen model a kind, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from parfocal.daemon.service.errors import MessageError
from parfocal.daemon.service.messages import unpack

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventModel(BaseModel):
    """What every event has: `n` counts the events of its kind, so that a gap shows; `sent_s` is Unix time.

    A newer daemon of the same protocol may add keys: they are kept.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    version: int
    n: int
    sent_s: float


class Assessed(BaseModel):
    """What one model says of the frame."""

    model_config = ConfigDict(extra="allow", frozen=True)

    value: float | None
    sd: float | None
    abstained: bool
    reason: str
    detail: dict[str, float | None]
    signed: bool | None = None


class Wanted(BaseModel):
    """What the policy wants: ``change``, ``hold`` or ``finish``, and why."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    reason: str
    settings: dict[str, float | None]
    detail: dict[str, float | None]


class Judged(BaseModel):
    """What the guard says of it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    accepted: bool
    reason: str
    settings: dict[str, float | None]
    refusal: str | None


class DoseLeft(BaseModel):
    """Light spent, and what is left of the budget, if there is one."""

    model_config = ConfigDict(extra="allow", frozen=True)

    spent: float | None
    budget: float | None
    left: float | None
    unit: str


class Hello(EventModel):
    """What holds for the session until the next one of these."""

    kind: Literal["hello"]
    parfocal: str
    facts: dict[str, Any]


class StepEvent(EventModel):
    """One frame's way through the loop; see `parfocal.daemon.service.events.step_event`."""

    kind: Literal["step"]
    index: int
    t_s: float
    start_s: float
    end_s: float
    z_um: float | None
    settings: dict[str, float | None]
    assessments: dict[str, Assessed]
    action: Wanted | None
    verdict: Judged | None
    defocus_um: float | None
    defocus_sd_um: float | None
    focus_z_um: float | None
    quality: float | None
    state: str
    stale: bool
    counters: dict[str, int]
    dose: DoseLeft
    travel_um: float | None
    fps: float | None
    latency_ms: float | None
    notes: str
    simulated: bool
    truth: dict[str, float | None]


class StateEvent(EventModel):
    """The session went from one state to another."""

    kind: Literal["state"]
    old: str
    new: str
    reason: str
    time_s: float | None


class OrderEvent(EventModel):
    """Somebody ordered something; `text` says what became of it, `code` why it was refused."""

    kind: Literal["order"]
    who: str
    role: str
    via: str
    command: str
    arguments: dict[str, Any]
    accepted: bool
    text: str
    code: str

    @property
    def sender(self) -> str:
        """Who and by what, for people."""
        return f"{self.who}, {self.via}" if self.via else self.who


class Health(EventModel):
    """Once a second: how the loop and the service are doing."""

    kind: Literal["health"]
    state: str
    fps: float | None
    latency_ms: dict[str, float | None]
    since_step_s: float | None
    lost_events: int
    refused: dict[str, int]


class PatchMapImage(BaseModel):
    """A model's local answers; `value` and `certainty` are float32, little-endian, row by row, NaN for no answer."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str
    rows: int
    columns: int
    patch_px: int
    stride_px: int
    unit: str
    value: bytes
    certainty: bytes


class Preview(EventModel):
    """A frame made small: uint8, row by row; 0 stands for `low` counts, 255 for `high`."""

    kind: Literal["preview"]
    index: int
    width: int
    height: int
    factor: int
    low: float | None
    high: float | None
    pixels: bytes
    patch_maps: list[PatchMapImage] = Field(default_factory=list)

    @property
    def patch_map(self) -> PatchMapImage | None:
        """The first of them: that of quality, else of defocus, else of another model."""
        return self.patch_maps[0] if self.patch_maps else None


class RefusedSquares(BaseModel):
    """Where a restored image shows the frame as it is (1): squares of `cell_px` pixels of the frame, row by row."""

    model_config = ConfigDict(extra="allow", frozen=True)

    rows: int
    columns: int
    cell_px: int
    cells: bytes


class Restored(EventModel):
    """A frame as it would look in focus, made small like a preview: computed, for people to look at, and no data.

    `verdict` is ``restored``, ``in_focus`` or ``refused`` (then the image is the frame as it is; `reason` says why), or
    ``off`` (no image: nothing is computed any more).
    """

    kind: Literal["restored"]
    label: Literal["computed"]
    index: int | None
    method: str
    verdict: str
    reason: str
    defocus_um: float | None
    defocus_sd_um: float | None
    width: int
    height: int
    factor: int
    low: float | None
    high: float | None
    pixels: bytes
    refused: RefusedSquares | None
    took_ms: float | None
    simulated: bool


class End(EventModel):
    """How the session ended; nothing comes after it."""

    kind: Literal["end"]
    outcome: str
    summary: dict[str, Any]


Event = Hello | StepEvent | StateEvent | OrderEvent | Health | Preview | Restored | End
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_event(data: bytes) -> Event:
    """Read an event; raises `MessageError`."""
    return event_of(unpack(data, limit=MAX_EVENT_BYTES))


def event_of(content: dict[str, Any]) -> Event:
    """Make an event of a plain dict; raises `MessageError`."""
    try:
        return _EVENTS.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise MessageError("malformed", f"{where}: {first['msg'][:160]}") from None
