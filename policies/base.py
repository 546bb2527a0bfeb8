"""What a policy is told, what it may answer, and the ask/tell protocol between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from parfocal import ParfocalError, UsageError
from parfocal.models.base import Assessment


class PolicyError(ParfocalError):
    """A policy was told or asked something that its state does not allow, or its checkpoint cannot be restored."""


class PolicyPluginError(PolicyError):
    """A policy that a package offers cannot be had: it fails to import, makes none, or is not the only one."""

    exit_code = 3


class PolicyOptionError(UsageError):
    """An option that a policy does not know, or a value it cannot use; `problems` has one line each."""

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Observation:
    """A frame's facts, no pixels.

    Parameters
    ----------
    index : int
        The frame's index.
    settings : mapping
        All parameters as read back while the frame was exposed.
    time_s : float
        Middle of the exposure, on the microscope's clock.
    dose : float
        Light spent on the sample so far, in the session's dose unit.
    assessments : mapping
        By model name.
    """

    index: int
    settings: Mapping[str, float]
    time_s: float
    dose: float
    assessments: Mapping[str, Assessment]


@dataclass(frozen=True)
class Change:
    """Set these parameters to these values."""

    settings: Mapping[str, float]
    reason: str
    detail: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hold:
    """Do nothing now."""

    reason: str
    detail: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finish:
    """Set these (possibly no) parameters and ask no more."""

    settings: Mapping[str, float]
    reason: str
    detail: Mapping[str, float] = field(default_factory=dict)


Action = Change | Hold | Finish


@runtime_checkable
class Policy(Protocol):
    """A pure decision maker: told observations, asked for the next action; no I/O, no clock of its own, seeded.

    The loop calls `ask` once after every `tell`. `detail` of an action may carry ``focus_z_um``, ``defocus_um``,
    ``defocus_sd_um`` (the belief about the present frame), ``found`` (1.0: the focus is known, and this action goes
    there or stays), ``focused`` (1.0: this frame is in focus) and ``positive`` (how probable it is that the stage is
    above the focus: in between, the side is not known); the loop, the terminal view and the report show them.

    A policy that takes milliseconds may have an attribute ``off_loop = True``: the daemon then calls `tell` and `ask`
    in another thread, one frame after the other, and its event loop goes on answering meanwhile.
    """

    name: str

    @property
    def reads(self) -> Sequence[str]:
        """The models whose assessments it wants, as its options name them; empty if it looks at none.

        A run is refused unless all of them are among ``scoring.models``. A policy of another package may lack this
        (`reads_of`); then nobody can see beforehand that it will never be told anything.
        """
        ...

    def tell(self, observation: Observation) -> None:
        """Learn from one frame."""
        ...

    def ask(self) -> Action:
        """Decide."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        ...

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; raises `PolicyError` if it is not one of this policy's."""
        ...


REQUIRED = ("name", "tell", "ask", "checkpoint", "restore")
"""What an object must have to be taken for a policy; `Policy.reads` came later, and is not asked for."""


def reads_of(policy: object) -> tuple[str, ...]:
    """Return the models that a policy says it reads; none if it does not say."""
    return tuple(getattr(policy, "reads", ()))
