"""A preview on its way to a browser: the length of a JSON header, the header, the pixels, the patch map."""

from __future__ import annotations

import json
import struct

from parfocal.daemon.service.eventmodels import Preview


def preview_bytes(event: Preview, at: float) -> bytes:
    """Return a preview as one binary message.

    Four bytes (little-endian) say how long the header is; behind the header lie ``width * height`` bytes of grey, and
    with a patch map ``rows * columns`` float32 of value and as many of certainty, little-endian.
    """
    found = event.patch_map
    header = {
        "index": event.index, "width": event.width, "height": event.height, "factor": event.factor,
        "low": event.low, "high": event.high, "at": at,
        "map": None if found is None else found.model_dump(exclude={"value", "certainty"}, mode="json"),
    }  # fmt: skip
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 4)
    parts = [struct.pack("<I", len(text)), text, event.pixels]
    if found is not None:
        parts += [found.value, found.certainty]
    return b"".join(parts)
