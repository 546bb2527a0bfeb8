"""The messages of commands: pydantic models in msgpack, told apart by `kind`, the protocol's version in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from parfocal.daemon.service.errors import MessageError

VERSION: Literal[1] = 1
MAX_COMMAND_BYTES = 16 * 1024
"""No command needs more; what is larger is dropped by the socket itself."""

MAX_ITEMS = 1000
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
Reason = Annotated[str, Field(max_length=300)]
Plain = None | bool | int | float | str | list[Any] | dict[str, Any]
Bound = Literal["lower", "upper", "max_step", "max_rate", "max_travel", "budget"]


class Message(BaseModel):
    """What every message has in common: nothing unknown, nothing converted, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Status(Message):
    """What is the daemon doing? The one command that changes nothing."""

    kind: Literal["status"] = "status"


class Pause(Message):
    """Stop the camera and hold until told to resume."""

    kind: Literal["pause"] = "pause"
    reason: Reason = ""


class Resume(Message):
    """Go on after a pause."""

    kind: Literal["resume"] = "resume"


class Stop(Message):
    """End the session in good order after the frame at hand."""

    kind: Literal["stop"] = "stop"
    reason: Reason = ""


class Safe(Message):
    """Make the microscope safe at once, and end."""

    kind: Literal["safe"] = "safe"
    reason: Reason = ""


class SetLimit(Message):
    """Change one bound of one parameter, inside what configuration and facility allow; `None`: back to theirs."""

    kind: Literal["set_limit"] = "set_limit"
    parameter: Name
    bound: Bound
    value: float | None


class SetOption(Message):
    """Change one option of the policy; `None`: back to the policy's own default."""

    kind: Literal["set_option"] = "set_option"
    option: Name
    value: Plain


class SetPolicy(Message):
    """Let another policy decide from the next frame on."""

    kind: Literal["set_policy"] = "set_policy"
    policy: Name
    options: dict[Name, Plain] = Field(default_factory=dict)


class SetPreview(Message):
    """Switch the restored preview on (by a method's name) or off, or change how often; `None`: as configured."""

    kind: Literal["set_preview"] = "set_preview"
    key: Literal["restored", "every_s"]
    value: Annotated[str, Field(max_length=64)] | float | bool | None


class Snap(Message):
    """Take one frame while paused; it is scored and journalled, and nothing is done about it."""

    kind: Literal["snap"] = "snap"


Command = Annotated[
    Status | Pause | Resume | Stop | Safe | SetLimit | SetOption | SetPolicy | SetPreview | Snap,
    Field(discriminator="kind"),
]


class Request(Message):
    """A command in its envelope.

    `client` is drawn anew by every client, `seq` counts its requests up from 1, `sent_s` is when it was sent in seconds
    of Unix time: with them, a request that was recorded and sent again is told from a new one. `via` is what the client
    calls itself (``terminal``, ``web page``); it is shown and written down, and gives nobody any right.
    """

    version: Literal[1] = VERSION
    client: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    seq: Annotated[int, Field(ge=1, lt=2**63)]
    sent_s: float
    via: Annotated[str, Field(max_length=40, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    command: Command


class Done(Message):
    """The command was accepted; `text` says what became of it, `state` what the session is doing."""

    kind: Literal["done"] = "done"
    version: Literal[1] = VERSION
    seq: int
    text: str
    state: str
    detail: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


class Refused(Message):
    """The command was refused, and nothing was changed."""

    kind: Literal["refused"] = "refused"
    version: Literal[1] = VERSION
    seq: int
    code: str
    reason: str


class StatusReply(Message):
    """What the daemon is doing: the last event of every kind but previews, by kind."""

    kind: Literal["status"] = "status"
    version: Literal[1] = VERSION
    seq: int
    state: str
    you: dict[str, str]
    events: dict[str, Any]


Reply = Annotated[Done | Refused | StatusReply, Field(discriminator="kind")]
_REPLIES: TypeAdapter[Done | Refused | StatusReply] = TypeAdapter(Reply)
COMMANDS: TypeAdapter[Any] = TypeAdapter(Command)


def encode(message: BaseModel | Mapping[str, Any]) -> bytes:
    """Write a message, or a plain dict that is one, as msgpack."""
    plain = message.model_dump() if isinstance(message, BaseModel) else message
    packed: bytes = msgpack.packb(plain, use_bin_type=True)
    return packed


def unpack(data: bytes, limit: int = MAX_COMMAND_BYTES) -> dict[str, Any]:
    """Read msgpack into a dict; raises `MessageError` for whatever else it is. Nothing in it is ever executed."""
    if len(data) > limit:
        raise MessageError("oversized", f"a message of {len(data)} bytes; {limit} is the most")
    items = min(MAX_ITEMS, limit) if limit <= MAX_COMMAND_BYTES else limit
    try:
        plain = msgpack.unpackb(
            data, raw=False, strict_map_key=True, max_array_len=items, max_map_len=items, max_ext_len=0
        )
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError("malformed", f"not a message: {str(error)[:100] or type(error).__name__}") from None
    if not isinstance(plain, dict):
        raise MessageError("malformed", f"not a message: a {type(plain).__name__} where a map was expected")
    version = plain.get("version")
    if type(version) is not int or version != VERSION:
        raise MessageError(
            "version", f"this side speaks version {VERSION} of the protocol, the message says {str(version)[:20]!r}"
        )
    return plain


def read_request(data: bytes) -> Request:
    """Read a request; raises `MessageError` with what is wrong with it."""
    plain = unpack(data)
    try:
        return Request.model_validate(plain)
    except (ValidationError, RecursionError) as error:
        raise MessageError("malformed", _first_problem(error)) from None


def seq_of(data: bytes) -> int:
    """Return the number of a request that was refused unread, as far as it can be made out; else 0."""
    try:
        plain = msgpack.unpackb(data, raw=False, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS, max_ext_len=0)
        seq = plain["seq"]
    except Exception:  # noqa: BLE001 - whatever it is, it has no number
        return 0
    return seq if type(seq) is int and 0 <= seq < 2**63 else 0


def read_reply(data: bytes) -> Done | Refused | StatusReply:
    """Read a reply; raises `MessageError`."""
    plain = unpack(data, limit=1 << 20)
    try:
        return _REPLIES.validate_python(plain)
    except (ValidationError, RecursionError) as error:
        raise MessageError("malformed", _first_problem(error)) from None


def _first_problem(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:80]
    return f"{where or 'message'}: {first['msg'][:160]}"
