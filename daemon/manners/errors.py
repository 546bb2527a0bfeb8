"""What keeps metrics from being served."""

from __future__ import annotations

from parfocal import ParfocalError


class MetricsError(ParfocalError):
    """The page of metrics cannot be served at its address."""

    exit_code = 3


class MetricsAddressTakenError(MetricsError):
    """Another program listens at the address of the metrics."""

    exit_code = 75
