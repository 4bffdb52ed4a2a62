"""What every kind of uplink has in its settings: what delivery asks of them. Must not say what a kind has alone.

Whatever carries requests is a `Wire` (guards.py), given to an `Uplink` as `Seams.wire`; leases, ledger, retries, status
and metrics are those of every uplink. What a wire's `told()` says stands in the status before what is common, its
`type` too. How requests are written is a word of `protocol`, which `encoder_of` (requests.py) knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.units import Duration, Size
    from gateway.uplinks.budget_settings import BudgetSettings
    from gateway.uplinks.settings import RetrySettings


class Terms(Protocol):
    """The settings of an uplink, as far as all kinds have them. See `OtlpUplinkSettings` for what they mean."""

    @property
    def name(self) -> str:
        """What status, metrics and the ledger call it."""
        ...

    @property
    def classes(self) -> Sequence[str] | None:
        """The classes that it takes; None: all."""
        ...

    @property
    def signals(self) -> Sequence[str] | None:
        """The signals that it takes; None: all."""
        ...

    @property
    def mappings(self) -> Sequence[str] | None:
        """The mappings whose readings it takes; None: all, and what no mapping makes."""
        ...

    @property
    def protocol(self) -> str:
        """How requests are written."""
        ...

    @property
    def compression(self) -> str:
        """A word of `Compression`."""
        ...

    @property
    def timeout(self) -> Duration:
        """The longest wait for an answer."""
        ...

    @property
    def batch_interval(self) -> Duration:
        """How long fresh data may wait to be sent together."""
        ...

    @property
    def batch_readings_max(self) -> int:
        """Readings in one request at most."""
        ...

    @property
    def request_bytes_max(self) -> Size:
        """Size of one request at most, before compression."""
        ...

    @property
    def budget(self) -> BudgetSettings:
        """What the link may carry."""
        ...

    @property
    def retry(self) -> RetrySettings:
        """Waits between attempts."""
        ...

    @property
    def stop_grace(self) -> Duration:
        """How long to go on sending fresh data at a stop."""
        ...
