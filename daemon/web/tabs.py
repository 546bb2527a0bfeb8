"""The open pages: each gets what changed at its own pace, and a slow one holds up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from parfocal.daemon.web.security import Role
from parfocal.daemon.web.state import Delta

GROWING = {"rows": 3000, "entries": 400, "trials": 1000}
"""Lists that changes add to, and how much of each may wait; a page that is further behind begins anew."""

MOST = 32


class Tab:
    """What one page has not been told yet."""

    def __init__(self, role: Role, snapshot: Callable[[], Delta]) -> None:
        self.role = role
        self._snapshot = snapshot
        self._waiting: Delta | None = None
        self._images: dict[str, bytes] = {}
        self._woken = asyncio.Event()
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._waiting = None
        self._woken.set()

    def put(self, delta: Delta) -> None:
        """Add what changed."""
        waiting = self._waiting
        if waiting is None:
            return  # the snapshot will have it
        if delta.get("reset"):
            self.restart()
            return
        for key, value in delta.items():
            if key not in GROWING:
                waiting[key] = value
            elif key == "rows":
                waiting.setdefault(key, []).extend(value)
            else:  # by their ids: of an entry that changed several times, the last form counts
                waiting.setdefault(key, {}).update({one["id"]: one for one in value})
        if any(len(waiting.get(key, ())) > most for key, most in GROWING.items()):
            self.restart()
        self._woken.set()

    def put_preview(self, preview: bytes, kind: str = "preview") -> None:
        """Replace the image of that kind that waits."""
        self._images[kind] = preview
        self._woken.set()

    async def take(self, now: Callable[[], float], role: Role) -> list[str | bytes]:
        """Wait for news; return the messages to send."""
        await self._woken.wait()
        return self.collect(now, role)

    def collect(self, now: Callable[[], float], role: Role) -> list[str | bytes]:
        """Return the messages that wait, perhaps none."""
        self._woken.clear()
        messages: list[str | bytes] = []
        delta = self._snapshot() | {"role": role} if self._waiting is None else self._waiting
        self._waiting = {}
        if delta:
            plain = {key: list(value.values()) if _by_id(key, value) else value for key, value in delta.items()}
            messages.append(json.dumps(plain | {"now": now()}, allow_nan=False, separators=(",", ":")))
        messages += self._images.values()
        self._images = {}
        return messages


class Tabs:
    """All open pages."""

    def __init__(self, snapshot: Callable[[], Delta]) -> None:
        self._snapshot = snapshot
        self._open: set[Tab] = set()

    def join(self, role: Role, preview: bytes | None, restored: bytes | None = None) -> Tab | None:
        """Let another page in; `None`: there are too many."""
        if len(self._open) >= MOST:
            return None
        tab = Tab(role, self._snapshot)
        if preview is not None:
            tab.put_preview(preview)
        if restored is not None:
            tab.put_preview(restored, "restored")
        self._open.add(tab)
        return tab

    def leave(self, tab: Tab) -> None:
        """Forget a page."""
        self._open.discard(tab)

    def put(self, delta: Delta) -> None:
        """Tell every page what changed."""
        if delta:
            for tab in self._open:
                tab.put(delta)

    def put_preview(self, preview: bytes, kind: str = "preview") -> None:
        """Show every page an image."""
        for tab in self._open:
            tab.put_preview(preview, kind)

    def counts(self) -> tuple[int, int]:
        """How many pages may operate, and how many only look."""
        operate = sum(tab.role == "operate" for tab in self._open)
        return operate, len(self._open) - operate


def _by_id(key: str, value: Any) -> bool:
    return key in GROWING and isinstance(value, dict)
