"""The shape of the configuration: one frozen pydantic model a section, unknown keys refused, units in the names."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
ParameterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
KeyName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]


class Section(BaseModel):
    """What every section has in common: no unknown keys, no guessing of types, no NaN, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Objective(Section):
    """The objective: what turns defocus into blur."""

    na: Annotated[float, Field(gt=0, le=1.7)] = 0.75
    immersion_index: Annotated[float, Field(ge=1.0, le=1.8)] = 1.0
    magnification: Positive = 20.0

    @model_validator(mode="after")
    def _na_below_index(self) -> Objective:
        if self.na >= self.immersion_index:
            raise ValueError(f"na {self.na:g} must be below immersion_index {self.immersion_index:g}")
        return self


class MicroscopeSection(Section):
    """Which microscope, and what is known of its optics. What is given is handed to the driver, which checks it again.

    `interval_ms`: one frame every so often; without it the camera runs freely. `timeout_ms` is how long a device may
    stay silent, `timeouts_ms` the same by device (``camera``, ``stage``, or a device's label). `options` is for drivers
    of other packages.
    `on_request`: a frame is exposed only when one is waited for; by default so with the ``sted`` policies.
    `frozen_after` bit-identical frames in a row make a frozen camera (0: never; for recordings and noise-free cameras).
    """

    driver: Annotated[str, Field(min_length=1)]
    system_config: str | None = None
    path: str | None = None
    camera: str | None = None
    focus_device: str | None = None
    shutter: str | None = None
    objective: Objective = Objective()
    emission_nm: Annotated[float, Field(ge=200, le=2000)] | None = None
    pixel_um: Positive | None = None
    exposure_ms: Positive | None = None
    interval_ms: NotNegative | None = None
    settle_ms: NotNegative | None = None
    latency_ms: NotNegative | None = None
    z_start_um: float | None = None
    z_step_um: float | None = None
    z_csv: str | None = None
    channel: int | None = None
    interpolate: str | None = None
    exposure_limits_ms: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    z_lower_um: float | None = None
    z_upper_um: float | None = None
    saturation_counts: Positive | None = None
    tolerances: dict[str, Positive] = Field(default_factory=dict)
    frozen_after: Annotated[int, Field(ge=0)] | None = None
    on_request: bool | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    simulation: dict[str, Any] = Field(default_factory=dict)
    properties: dict[str, Any] = Field(default_factory=dict)
    initial_properties: list[list[Any]] = Field(default_factory=list)
    timeout_ms: Positive = 5000.0
    timeouts_ms: dict[str, Positive] = Field(default_factory=dict)

    def frames_to_freeze(self, *, simulated: bool) -> int:
        """Return `frozen_after`; by default 1, and 0 where frames repeat themselves without anything being wrong.

        These are recordings, and the noise-free demonstration cameras of Micro-Manager. Our own simulator has noise.
        """
        if self.frozen_after is not None:
            return self.frozen_after
        repeats = self.driver == "recorded" or (simulated and self.driver not in ("simulated", "simulated_sted"))
        return 0 if repeats else 1


class ScoringSection(Section):
    """Which networks look at the frames, and where they run."""

    models: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["defocus"])
    backend: Literal["auto", "torch", "openvino"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    process: bool = True
    timeout_ms: Positive = 10_000.0
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_of_models(self) -> ScoringSection:
        strange = sorted(set(self.options) - set(self.models))
        if strange:
            raise ValueError(f"options are given for {', '.join(strange)}, which is not among models {self.models}")
        return self


class QualitySection(Section):
    """When a frame is not good enough, and what follows. The gate moves nothing: at most it ends the session.

    A frame is bad if the value of `model` (or `score`, a key of its detail) is `below` or `above`. After `for_frames`
    bad ones in a row: ``flag`` marks them, ``retake`` asks for the field again, at most `max_retakes` times in a row,
    ``stop`` ends the session. `judge`: ``settled`` leaves out the frames on the way to the focus, ``all`` does not.
    An abstention is not bad; `abstain_report` of them in a row are marked as not to be judged.
    """

    model: Annotated[str, Field(min_length=1)] = "quality"
    score: Annotated[str, Field(min_length=1)] | None = None
    below: float | None = None
    above: float | None = None
    for_frames: Annotated[int, Field(ge=1)] = 3
    then: Literal["flag", "retake", "stop"] = "flag"
    max_retakes: Annotated[int, Field(ge=1)] = 2
    judge: Literal["settled", "all"] = "settled"
    abstain_report: Annotated[int, Field(ge=1)] = 10

    @model_validator(mode="after")
    def _says_what_is_bad(self) -> QualitySection:
        if self.below is None and self.above is None:
            raise ValueError("give below (or above, where lower is better): what is not good enough")
        if self.below is not None and self.above is not None and self.below >= self.above:
            raise ValueError(f"below {self.below:g} must be less than above {self.above:g}: what lies between is good")
        if "max_retakes" in self.model_fields_set and self.then != "retake":
            raise ValueError("max_retakes needs then: retake")
        return self


class PolicySection(BaseModel):
    """Which policy decides; every further key is one of its options, checked by the policy itself."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)] = "focus.belief"
    calibration: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are neither `name` nor `calibration`."""
        return dict(self.model_extra or {})


class Limit(Section):
    """What the guard allows of one parameter, in the parameter's own unit.

    `max_step` bounds one move, `max_rate` (unit/s) a move over the time since the last one, `max_travel` the sum of
    all moves of a session. A bound that is not given is the device's own.
    """

    lower: float | None = None
    upper: float | None = None
    max_step: Positive | None = None
    max_rate: Positive | None = None
    max_travel: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Limit:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower {self.lower:g} must be below upper {self.upper:g}")
        return self


class Dose(Section):
    """How much light the sample may be given: the sum of power times exposure over all frames of the session.

    Without a beam parameter the power counts as 1, so that the dose is the exposed time in ms.
    """

    budget: Positive
    unit: str = ""


class LimitsSection(BaseModel):
    """The guard's limits: one `Limit` a parameter, the dose budget, and how long a beam outlives a silent loop."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[ParameterName, Limit] = Field(init=False)

    dose: Dose | None = None
    beam_lease_s: Positive = 5.0

    @property
    def parameters(self) -> dict[str, Limit]:
        """The limits by parameter name."""
        return dict(self.model_extra or {})


class SessionSection(Section):
    """Where the record goes, how much of it, and when the session ends by itself."""

    folder: str = "sessions"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "session"
    record: Literal["none", "decisions", "all"] = "decisions"
    max_frames: Annotated[int, Field(ge=1)] | None = None
    max_seconds: Positive | None = None
    until_focused: bool = False
    focused_frames: Annotated[int, Field(ge=1)] = 1


class ServiceSection(Section):
    """Where a running daemon can be talked to, and by whom.

    `bind` takes commands, `publish` sends events; by default the next port (or, for ``ipc``, the next file). On
    loopback everybody on this computer may operate it. With `keys`, a folder, and `allow`, names with roles, only they
    may, and every connection is encrypted; any other address needs that. `max_age_s`: a command that was sent longer
    ago is refused. `preview_px`: longest side of the previews; 0 for none. `enabled: false`: nobody can talk to it.
    """

    enabled: bool = True
    bind: str = "tcp://127.0.0.1:5570"
    publish: str | None = None
    keys: str | None = None
    allow: dict[KeyName, Literal["observe", "operate"]] = Field(default_factory=dict)
    max_age_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    preview_px: Annotated[int, Field(ge=0, le=1024)] = 256

    @property
    def local(self) -> bool:
        """Whether only programs on this computer can reach it."""
        return _is_local(self.bind) and (self.publish is None or _is_local(self.publish))

    @field_validator("bind", "publish")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        if address is None:
            return None
        scheme, _, rest = address.partition("://")
        if scheme == "ipc" and rest and not rest.startswith("@"):
            return address
        host, _, port = rest.rpartition(":")
        if scheme != "tcp" or not host or not (port == "*" or (port.isdigit() and 0 < int(port) <= 65535)):
            raise ValueError("must read tcp://127.0.0.1:PORT or ipc://PATH")
        return address

    @model_validator(mode="after")
    def _strangers_kept_out(self) -> ServiceSection:
        if bool(self.keys) != bool(self.allow):
            raise ValueError("keys (a folder) and allow (name: observe | operate) only work together")
        for key, address in (("bind", self.bind), ("publish", self.publish)):
            if address is not None and not (self.keys or _is_local(address)):
                raise ValueError(
                    f"{key} {address} must be a loopback address (127.0.0.1) or ipc://PATH: any other lets strangers "
                    "drive the microscope. To allow others: `parfocal keys new NAME --role observe|operate`, then "
                    "give keys and allow"
                )
        if self.bind == self.publish and not self.bind.endswith(":*"):
            raise ValueError(f"bind and publish cannot be the same address (got {self.bind})")
        if self.publish is None and self.bind.endswith(":65535"):
            raise ValueError("there is no port after 65535: give publish as well")
        return self


class PreviewSection(Section):
    """What is computed of the live frame for people to look at; nothing of it feeds a score, a policy or the record.

    `restored`: the frame as it would look in focus, by this method, from the frame and the defocus that the network
    tells of it; one every `every_s` at most. Beyond `timeout_ms` its process counts as stalled and is started again.
    `options` are the method's.
    """

    restored: Literal["off", "unet", "wiener", "richardson_lucy"] = "off"
    every_s: Annotated[float, Field(ge=0.1, le=3600)] = 1.0
    timeout_ms: Annotated[float, Field(ge=100, le=600_000)] = 10_000.0
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("restored", mode="before")
    @classmethod
    def _off(cls, restored: Any) -> Any:
        return "off" if restored is False else restored  # what YAML makes of the word off


class WebSection(Section):
    """The web page of a run: where it is served, on this computer only, and whether a browser is opened at once.

    Without the section there is none; `parfocal web` serves one beside a running daemon. `key`: the secret key file
    that the page shows to the service, where that has `keys`.
    """

    bind: str = "127.0.0.1:8570"
    open: bool = False
    key: str | None = None

    @field_validator("bind")
    @classmethod
    def _here(cls, bind: str) -> str:
        host, _, port = bind.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) <= 65535:
            raise ValueError("must read 127.0.0.1:PORT")
        if not _is_loopback(host.strip("[]")):
            raise ValueError(
                f"must be an address of this computer alone, 127.0.0.1:{port}: the page speaks plain HTTP, and whoever "
                f"listens on the way could drive the microscope. From elsewhere: ssh -L {port}:127.0.0.1:{port}"
            )
        return bind


class MetricsSection(Section):
    """Where Prometheus reads the run's numbers: on this computer only, unless `others` says otherwise.

    They can only be read, but tell whoever reads them what is done to a sample, and when.
    """

    bind: str = "127.0.0.1:9570"
    others: bool = False

    @property
    def local(self) -> bool:
        """Whether only programs on this computer can read them."""
        return _is_loopback(self.bind.rpartition(":")[0].strip("[]"))

    @field_validator("bind")
    @classmethod
    def _address(cls, bind: str) -> str:
        host, _, port = bind.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) <= 65535:
            raise ValueError("must read 127.0.0.1:PORT")
        return bind

    @model_validator(mode="after")
    def _asked_for(self) -> MetricsSection:
        if not self.local and not self.others:
            raise ValueError(
                f"bind {self.bind} lets other computers read what is done to the sample, without a password and "
                "unencrypted; if that is wanted, give others: true"
            )
        return self


REDACTED = "redacted"
"""Stands in a session's copy of its configuration where a secret was."""

SECRETS = (("alerts", "webhook"),)
"""Keys whose values are never shown, in messages least of all."""


class AlertsSection(Section):
    """Whom to call, and when; a key that is null is never called about.

    `webhook` takes a JSON object by POST: an ``https://`` address, or ``env:NAME`` or ``file:PATH`` of what holds it,
    for whoever knows it can write there. `hold_longer_than_s`: nothing was done for so long although the sample is not
    known to be in focus. `no_frame_for_s`: beyond interval and exposure. `dose_share`: of the budget. A safety trip, a
    failed end, and frames that the recorder lost are always called about. `name`: what people call this microscope.
    """

    webhook: Annotated[str, Field(min_length=1, repr=False)]
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    hold_longer_than_s: Positive | None = 120.0
    no_frame_for_s: Positive | None = 30.0
    dose_share: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0

    @field_validator("webhook")
    @classmethod
    def _place(cls, webhook: str) -> str:
        kind, _, name = webhook.partition(":")
        named = name.isidentifier() if kind == "env" else kind == "file" and name
        if not (named or webhook == REDACTED or is_web_address(webhook)):
            raise ValueError("must be env:NAME, file:PATH, or an address that starts with https:// (or http://)")
        return webhook

    @field_serializer("webhook")
    def _without_secret(self, webhook: str) -> str:
        return webhook if webhook.startswith(("env:", "file:")) else REDACTED


def is_web_address(text: str) -> bool:
    """Whether a text is an address that something can be posted to."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _is_local(address: str) -> bool:
    scheme, _, rest = address.partition("://")
    return scheme == "ipc" or _is_loopback(rest.rpartition(":")[0].strip("[]"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class FacilityConfig(Section):
    """The facility's file: limits that a user's configuration can only narrow."""

    limits: LimitsSection = LimitsSection()
