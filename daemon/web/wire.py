"""Images on their way to a browser: the length of a JSON header, the header, the pixels, a map."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from parfocal.daemon.service.eventmodels import Preview, Restored


def preview_bytes(event: Preview, at: float) -> bytes:
    """Return a preview as one binary message.

    Four bytes (little-endian) say how long the header is; behind the header lie ``width * height`` bytes of grey, and
    for each of its maps ``rows * columns`` float32 of value and as many of certainty, little-endian.
    """
    header = {
        "index": event.index, "width": event.width, "height": event.height, "factor": event.factor,
        "low": event.low, "high": event.high, "at": at,
        "maps": [found.model_dump(exclude={"value", "certainty"}, mode="json") for found in event.patch_maps],
    }  # fmt: skip
    floats = [part for found in event.patch_maps for part in (found.value, found.certainty)]
    return _message(header, event.pixels, *floats)


def restored_bytes(event: Restored, at: float) -> bytes:
    """Return a restored preview as one binary message; its header has the key ``kind``, ``"restored"``.

    Behind the pixels lie, where ``refused`` is not null, ``rows * columns`` bytes: 1 where the frame is as it was.
    """
    squares = event.refused
    header = event.model_dump(exclude={"version", "n", "sent_s", "pixels", "refused"}, mode="json") | {
        "at": at, "refused": None if squares is None else squares.model_dump(exclude={"cells"}, mode="json"),
    }  # fmt: skip
    return _message(header, event.pixels, *([] if squares is None else [squares.cells]))


def _message(header: Mapping[str, Any], *parts: bytes) -> bytes:
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 4)
    return b"".join([struct.pack("<I", len(text)), text, *parts])
