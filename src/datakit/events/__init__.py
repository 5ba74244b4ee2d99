"""What datakit did, as frozen records handed to whoever subscribed.

    unsubscribe = events.subscribe(print)

A subscriber is called in the thread or task where the event happened and must not block. One
that raises harms nobody: its first failure is logged, the others are ignored. While nobody
subscribes, no record is made. Durations are seconds; no record holds a secret or a cached value.
"""

import logging
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, ParamSpec

from datakit._lazy import lazy
from datakit.errors import ConfigError

if TYPE_CHECKING:
    from datakit.events.records import (
        AddressesChanged,
        BreakerClosed,
        BreakerOpened,
        BudgetDenied,
        CacheHit,
        CacheLoadFailed,
        CacheMiss,
        CacheStaleServed,
        CacheStored,
        CacheUnavailable,
        CacheValueRejected,
        CommitResolved,
        CommitUnknown,
        ConnectionMoved,
        DeadlineExceeded,
        Event,
        FailoverEnded,
        FailoverStarted,
        GateClosed,
        GateOpened,
        HedgeStarted,
        NameResolved,
        Overloaded,
        PinningFound,
        RetryGaveUp,
        RetryScheduled,
        StaleServed,
        TransactionRetried,
        WriterFound,
    )

__all__ = [
    "emit",
    "subscribe",
    "Event",
    "RetryScheduled",
    "RetryGaveUp",
    "BudgetDenied",
    "DeadlineExceeded",
    "BreakerOpened",
    "BreakerClosed",
    "GateClosed",
    "GateOpened",
    "HedgeStarted",
    "TransactionRetried",
    "CommitUnknown",
    "CommitResolved",
    "ConnectionMoved",
    "FailoverStarted",
    "WriterFound",
    "FailoverEnded",
    "PinningFound",
    "NameResolved",
    "AddressesChanged",
    "StaleServed",
    "CacheHit",
    "CacheMiss",
    "CacheStored",
    "CacheStaleServed",
    "CacheLoadFailed",
    "CacheUnavailable",
    "CacheValueRejected",
    "Overloaded",
]

__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__[2:], "datakit.events.records"))

P = ParamSpec("P")

Subscriber = Callable[["Event"], None]

_lock = Lock()
_subscribers: tuple[Subscriber, ...] = ()
_reported: set[int] = set()


def subscribe(fn: Subscriber) -> Callable[[], None]:
    """Call `fn(event)` for every event from now on; return the function that ends it.

    Raises:
        ConfigError: `fn` cannot be called.
    """
    global _subscribers
    if not callable(fn):
        raise ConfigError(f"subscribe({fn!r}): must be a function of one event")
    with _lock:
        _subscribers = (*_subscribers, fn)
    left = [fn]

    def unsubscribe() -> None:
        global _subscribers
        with _lock:
            if not left:
                return
            left.clear()
            rest = list(_subscribers)
            rest.remove(fn)
            _subscribers = tuple(rest)
            _reported.discard(id(fn))

    return unsubscribe


def emit(kind: "Callable[P, Event]", *args: P.args, **kwargs: P.kwargs) -> None:
    """Hand `kind(*args, **kwargs)` to the subscribers; without one, make no record."""
    subscribers = _subscribers
    if not subscribers:
        return
    event = kind(*args, **kwargs)
    for fn in subscribers:
        try:
            fn(event)
        except Exception:  # noqa: BLE001 - a subscriber is foreign code and must harm nobody
            _report(fn)


def _report(fn: Subscriber) -> None:
    with _lock:
        first = id(fn) not in _reported
        _reported.add(id(fn))
    if first:
        logging.getLogger("datakit.events").exception("event subscriber %r failed", fn)
