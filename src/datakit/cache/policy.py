"""What a function's user wants of the cache, read once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Final, Generic, TypeVar

from datakit.cache.codec import Codec
from datakit.cache.entry import Freshness
from datakit.cache.ttl import Lifetime, Ttl, TtlOf, lifetime, longest, parse, seconds_for
from datakit.errors import ConfigError

T = TypeVar("T")

LEASE: Final = 10.0
"""Seconds after which the right to load a key is lost, unless loads are known to take longer."""

LONGEST_LEASE: Final = 600.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """Options of `cached` that say when a value is kept and served; checked when made.

    Raises:
        ConfigError: one of them is of no use; the message names it.
    """

    ttl: TtlOf
    none_ttl: Ttl | EllipsisType = ...
    cache_if: Callable[[Any], bool] | None = None
    refresh_ahead: float | None = None
    stale_while_revalidate: Ttl = 0
    stale_if_error: Ttl = 0
    load_timeout: float | None = None
    soft_load_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.refresh_ahead is not None and not 0 < self.refresh_ahead < 1:
            raise ConfigError(
                f"refresh_ahead={self.refresh_ahead!r}: give a share of the TTL, such as 0.8"
            )
        for name in ("load_timeout", "soft_load_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ConfigError(f"{name}={seconds!r}: must be more than 0 seconds")
        if self.soft_load_timeout is not None and not self.freshness.kept:
            raise ConfigError(
                "soft_load_timeout: there is nothing to serve meanwhile without stale_if_error="
            )
        self.policy(Codec(repr, repr))  # type: ignore[arg-type]  # reads all TTLs

    @property
    def freshness(self) -> Freshness:
        """How long what may be served."""
        return Freshness(
            self.refresh_ahead, parse(self.stale_while_revalidate), parse(self.stale_if_error)
        )

    def policy(self, codec: Codec[T]) -> "Policy[T]":
        """Return the policy of one function.

        Raises:
            ConfigError: a TTL is none of its forms.
        """
        none_ttl = None if isinstance(self.none_ttl, EllipsisType) else parse(self.none_ttl)
        return Policy(
            codec,
            lifetime(self.ttl),
            none_ttl,
            self.cache_if,
            self.freshness,
            self.load_timeout,
            self.soft_load_timeout,
            lease=max(LEASE, (self.load_timeout or 0.0) + 1.0),
        )


@dataclass(slots=True)
class Policy(Generic[T]):
    """How values of one function are made, kept and served. All figures are seconds.

    none_ttl: of None as a result; None for the same as others.
    lease: how long the right to load a key lasts; grows with what loads take.
    """

    codec: Codec[T]
    ttl: Lifetime
    none_ttl: float | None = None
    cache_if: Callable[[Any], bool] | None = None
    freshness: Freshness = field(default_factory=Freshness)
    load_timeout: float | None = None
    soft_load_timeout: float | None = None
    lease: float = LEASE

    @property
    def doubtful(self) -> float:
        """Seconds after which a value stored before now is certainly gone."""
        return longest(self.ttl) + self.freshness.kept

    def seconds_for(self, value: object) -> float:
        """Return the seconds that `value` may live; 0 or less: it is not stored.

        Raises:
            ConfigError: the function of the result returned none of the forms.
        """
        if self.cache_if is not None and not self.cache_if(value):
            return 0.0
        if value is None and self.none_ttl is not None:
            return self.none_ttl
        return seconds_for(self.ttl, value)

    def took(self, seconds: float) -> None:
        """Learn what a load took: the next lease lasts twice as long."""
        if 2 * seconds > self.lease:
            self.lease = min(2 * seconds, LONGEST_LEASE)
