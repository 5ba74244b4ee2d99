"""What a function's user wants of the cache, read once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Final, Generic, TypeVar

from datakit.cache.codec import Codec
from datakit.cache.entry import Freshness
from datakit.cache.ttl import (
    Duration,
    Lifetime,
    Ttl,
    TtlOf,
    duration,
    lifetime,
    longest,
    parse,
    seconds_for,
)
from datakit.errors import CodecError, ConfigError
from datakit.resilience import checks

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
    load_timeout: Duration | None = None
    soft_load_timeout: Duration | None = None

    def __post_init__(self) -> None:
        ahead = self.refresh_ahead
        if ahead is not None and not (isinstance(ahead, float) and 0 < ahead < 1):
            raise ConfigError(f"refresh_ahead={ahead!r}: give a share of the TTL, such as 0.8")
        if callable(self.ttl):
            checks.function("cached", "ttl", self.ttl)
        if self.cache_if is not None:
            checks.function("cached", "cache_if", self.cache_if)
        self.policy(Codec(repr, repr))  # type: ignore[arg-type]  # reads all durations
        self._check_soft_timeout()

    def _check_soft_timeout(self) -> None:
        soft, hard = self._timeout("soft_load_timeout"), self._timeout("load_timeout")
        if soft is None:
            return
        if not self.freshness.kept:
            raise ConfigError(
                "soft_load_timeout: there is nothing to serve meanwhile without stale_if_error="
            )
        if hard is not None and soft > hard:
            raise ConfigError(
                f"soft_load_timeout={self.soft_load_timeout!r}: must not be above load_timeout="
                f"{self.load_timeout!r}, which ends the load"
            )

    @property
    def freshness(self) -> Freshness:
        """How long what may be served."""
        return Freshness(
            self.refresh_ahead,
            parse(self.stale_while_revalidate, "stale_while_revalidate"),
            parse(self.stale_if_error, "stale_if_error"),
        )

    def _timeout(self, name: str) -> float | None:
        given = getattr(self, name)
        return None if given is None else duration(given, name)

    def policy(self, codec: Codec[T]) -> "Policy[T]":
        """Return the policy of one function.

        Raises:
            ConfigError: a TTL is none of its forms.
        """
        none_ttl, load_timeout = self.none_ttl, self._timeout("load_timeout")
        return Policy(
            codec,
            lifetime(self.ttl),
            None if isinstance(none_ttl, EllipsisType) else parse(none_ttl, "none_ttl"),
            self.cache_if,
            self.freshness,
            load_timeout,
            self._timeout("soft_load_timeout"),
            lease=max(LEASE, (load_timeout or 0.0) + 1.0),
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
            CodecError: `cache_if`, or `ttl` as a function, failed or gave none of the forms; the
                text holds nothing of the value.
        """
        rule = "cache_if"
        try:
            if self.cache_if is not None and not self.cache_if(value):
                return 0.0
            if value is None and self.none_ttl is not None:
                return self.none_ttl
            rule = "ttl"
            return seconds_for(self.ttl, value)
        except Exception as exc:  # whatever a user's function raises
            raise CodecError(
                f"{rule}= gave no answer about a {type(value).__qualname__}: {type(exc).__name__}"
            ) from exc

    def took(self, seconds: float) -> None:
        """Learn what a load took: the next lease lasts twice as long."""
        if 2 * seconds > self.lease:
            self.lease = min(2 * seconds, LONGEST_LEASE)
