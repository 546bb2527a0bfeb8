"""What can go wrong with the page."""

from __future__ import annotations

from parfocal import ParfocalError


class PageError(ParfocalError):
    """The page cannot be served, at this address or at all."""

    exit_code = 3


class PageAddressTakenError(PageError):
    """Another program listens at the page's address."""

    exit_code = 75
