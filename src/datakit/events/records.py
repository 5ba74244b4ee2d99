"""The records of what happened. Durations are seconds; none holds a secret or a cached value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all records."""


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """An attempt failed and another follows after `delay`."""

    operation: str
    attempt: int
    verdict: str
    delay: float


@dataclass(frozen=True, slots=True)
class RetryGaveUp(Event):
    """An operation failed for good."""

    operation: str
    attempts: int
    verdict: str
    elapsed: float


@dataclass(frozen=True, slots=True)
class BudgetDenied(Event):
    """A retry was due and the budget had no `cost` tokens left for it."""

    operation: str
    verdict: str
    cost: int


@dataclass(frozen=True, slots=True)
class DeadlineExceeded(Event):
    """A deadline was over before `what` could be done."""

    what: str


@dataclass(frozen=True, slots=True)
class BreakerOpened(Event):
    """A breaker refuses calls for `open_for` seconds; `failure_rate` is a share from 0 to 1."""

    name: str
    failure_rate: float
    open_for: float


@dataclass(frozen=True, slots=True)
class BreakerClosed(Event):
    """A breaker's probes succeeded and it lets calls through again."""

    name: str


@dataclass(frozen=True, slots=True)
class GateClosed(Event):
    """An endpoint is down: one caller probes it and the others wait. `error` is a type's name."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class GateOpened(Event):
    """A probe found the endpoint up again, `elapsed` seconds after the gate closed."""

    name: str
    elapsed: float
    probes: int


@dataclass(frozen=True, slots=True)
class HedgeStarted(Event):
    """A call took longer than `delay`, and a second one was started beside it."""

    name: str
    delay: float


@dataclass(frozen=True, slots=True)
class TransactionRetried(Event):
    """A transaction's body is about to run again."""

    attempt: int
    verdict: str


@dataclass(frozen=True, slots=True)
class CommitUnknown(Event):
    """The link was lost during COMMIT."""

    rerun: bool


@dataclass(frozen=True, slots=True)
class CommitResolved(Event):
    """The token of an `exactly_once` transaction told what became of its COMMIT."""

    committed: bool


@dataclass(frozen=True, slots=True)
class ConnectionMoved(Event):
    """A pooled connection was replaced since its name points elsewhere now."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class FailoverStarted(Event):
    """The server at `address`, which an engine of `name` used, is away or takes no writes."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class WriterFound(Event):
    """The server `name` at `address`, another one than before, takes writes."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class FailoverEnded(Event):
    """An engine of `name` is connected again, `duration` after the start, at attempt `attempts`."""

    name: str
    duration: float
    attempts: int


@dataclass(frozen=True, slots=True)
class PinningFound(Event):
    """A statement at `place` ("file:line") makes RDS Proxy pin its session, for the first time."""

    cause: str
    place: str


@dataclass(frozen=True, slots=True)
class NameResolved(Event):
    """A DNS query was answered over the network."""

    name: str
    rdtype: str
    records: tuple[str, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class AddressesChanged(Event):
    """A lookup found another set of addresses for a name that is watched."""

    name: str
    rdtype: str
    records: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaleServed(Event):
    """No DNS server answered, so the last known records were used past their TTL."""

    name: str
    rdtype: str


@dataclass(frozen=True, slots=True)
class CacheHit(Event):
    """A fresh value was served."""

    key: str


@dataclass(frozen=True, slots=True)
class CacheMiss(Event):
    """Nothing was there that could be served."""

    key: str


@dataclass(frozen=True, slots=True)
class CacheStored(Event):
    """A loaded value was stored, for `seconds` at most."""

    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CacheStaleServed(Event):
    """A value was served past its time, as its function allows."""

    key: str


@dataclass(frozen=True, slots=True)
class CacheLoadFailed(Event):
    """A load failed and a value that was there was served. `error` is a type's name."""

    key: str
    error: str


@dataclass(frozen=True, slots=True)
class CacheUnavailable(Event):
    """A cache operation failed and the work went on without the cache."""

    operation: str
    error: str


@dataclass(frozen=True, slots=True)
class CacheValueRejected(Event):
    """A stored value could not be read and counts as a miss, or a loaded one cannot be stored."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overloaded(Event):
    """A bulkhead turned a call away."""

    limit: int
    waited: float
