"""Which server an engine connects to: by its names, by what its cluster tells, by who answers."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection

from datakit import events
from datakit._bounded import BoundedDict
from datakit._clock import Clock, uniform
from datakit.db.checkout import MAX_ADDRESSES
from datakit.db.target import Candidate, Target
from datakit.dns import Address
from datakit.dns.connecting import Failed
from datakit.errors import DeadlineExceededError, DnsError
from datakit.resilience import deadline

if TYPE_CHECKING:
    from datakit.db.topology import Member, Topology

T = TypeVar("T")

ANSWER_WITHIN: Final = 1.0
"""Seconds that a server has to answer while others may."""

ANSWER_BESIDE: Final = 0.1
"""Seconds that it has once another one of its cluster has answered."""

PASSED_OVER: Final = 3
"""How many times as long a server is not waited for that did not answer in its time."""

LEARN_EVERY: Final = 30.0
"""Seconds after which a new connection asks for the topology. Source: the refresh rate of the AWS
advanced wrappers."""


class Waits(Protocol):
    """What finding waits for, blocking or through SQLAlchemy's greenlet."""

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to."""
        ...

    def report_failure(self, name: str, ip: str) -> None:
        """Take note that connecting to `ip` failed."""
        ...

    def first_to_answer(
        self, name: str, candidates: Sequence[Address], failed: Failed, greeting: bytes | None
    ) -> Address:
        """Return the first that accepts a connection, or answers `greeting`."""
        ...


class Finder:
    """Knows the candidates of one engine, and tries them in the right order."""

    def __init__(self, target: Target, waits: Waits, clock: Clock) -> None:
        self._target = target
        self._waits = waits
        self._clock = clock
        self._hosts = frozenset(host for host, _ in target.hosts)
        self._topology = _topology_of(target)
        self._members: tuple[Member, ...] = ()
        self._learned_at: float | None = None
        self._proven: BoundedDict[Address, None] = BoundedDict(MAX_ADDRESSES)
        """Addresses that were connected to and have not failed since: one of several is not tried
        on the chance that it is dead."""
        self._failed: BoundedDict[Address, None] = BoundedDict(MAX_ADDRESSES)
        self._passed_over: BoundedDict[Candidate, float] = BoundedDict(MAX_ADDRESSES)
        self._current: Candidate | None = None
        self._lost_at: float | None = None
        """When a connection to the server in use was lost; that alone is no failover."""
        self._started_at: float | None = None
        self._attempts = 0

    @property
    def was_connected(self) -> bool:
        """Whether there was a connection at all."""
        return self._current is not None

    def find(
        self, connect: Callable[[Candidate], T], is_lost: Callable[[BaseException], bool]
    ) -> T:
        """Return what `connect` returns for the first candidate that it takes.

        is_lost: whether another candidate is tried after an error of `connect`.

        Raises:
            DnsError: no name has an address.
            Exception: what the last candidate raised.
        """
        self._attempts += 1
        fallback = self._target.fallback
        try:
            return self._found(connect, is_lost)
        except Exception as exc:
            if fallback is None or not is_lost(exc) or deadline.remaining() == 0:
                raise
        return self._search(list(self._at(*fallback)), connect, is_lost)

    def _found(
        self, connect: Callable[[Candidate], T], is_lost: Callable[[BaseException], bool]
    ) -> T:
        named = self._named()
        if named and (self._is_alone(named) or named[0].place in self._proven):
            try:
                with nullcontext() if self._is_alone(named) else deadline(ANSWER_WITHIN):
                    return connect(named[0])
            except Exception as exc:  # it may have told of others
                is_late = isinstance(exc, DeadlineExceededError)  # with a password, for one
                may_go_on = (is_lost(exc) or is_late) and not self._is_alone(named)
                if not may_go_on or deadline.remaining() == 0:
                    raise
        return self._search(self._everyone(named), connect, is_lost)

    def proved(self, candidate: Candidate) -> None:
        """Take note that `candidate` is the right one."""
        self._proven[candidate.place] = None
        self._failed.pop(candidate.place, None)
        self._passed_over.pop(candidate, None)
        before, self._current = self._current, candidate
        has_moved = before is not None and before.place != candidate.place
        if before is not None and has_moved and self._target.endpoint.writes:
            if self._started_at is None:
                self._begin(before)
            events.emit(events.WriterFound, candidate.host, candidate.ip)
        started_at = self._started_at
        if started_at is not None:
            elapsed = round(self._clock.monotonic() - started_at, 4)
            events.emit(events.FailoverEnded, self._target.host, elapsed, self._attempts)
        self._started_at = self._lost_at = None
        self._attempts = 0

    def lost(self, server: Candidate) -> None:
        """Take note that a link to `server` was lost, which may be that link's affair alone."""
        if self._is_in_use(server):
            self._lost_at = self._clock.monotonic()
        self._report(server)

    def failed(self, server: Candidate) -> None:
        """Take note that `server` is away, or not the right one any more.

        A failover has begun if it was in use.
        """
        self._proven.pop(server.place, None)
        self._failed[server.place] = None
        if self._started_at is None and self._is_in_use(server):
            self._begin(server)
        self._report(server)

    def _report(self, server: Candidate) -> None:
        if server.host in self._hosts:
            self._waits.report_failure(server.host, server.ip)

    def _is_in_use(self, server: Candidate) -> bool:
        return self._current is not None and self._current.place == server.place

    def _begin(self, server: Candidate) -> None:
        self._started_at = self._lost_at or self._clock.monotonic()
        events.emit(events.FailoverStarted, self._target.host, server.ip)

    def learn(self, dialect: Dialect, connection: DBAPIConnection, *, anew: bool) -> None:
        """Ask the server of a new connection for its cluster's members.

        anew: whatever was told before; else only when that is some time ago.

        Raises:
            DeadlineExceededError: the server took longer than `ANSWER_WITHIN`.
            dialect.loaded_dbapi.Error: the link was lost.
        """
        now = self._clock.monotonic()
        known = self._learned_at is not None and now - self._learned_at < LEARN_EVERY
        if self._topology is None or (known and not anew):
            return
        self._learned_at = now
        with deadline(ANSWER_WITHIN):
            self._members = self._topology.ask(dialect, connection) or self._members

    def _named(self) -> list[Candidate]:
        """Return the candidates that the engine's own hosts lead to.

        Raises:
            DnsError: none has an address, and the cluster told of no others.
        """
        found: list[Candidate] = []
        failure: DnsError | None = None
        for host, port in self._target.hosts:
            try:
                found += self._at(host, port)
            except DnsError as exc:
                failure = failure or exc
        if failure is not None and not (found or self._members):
            raise failure
        if self._target.endpoint.kind == "reader":  # each takes its share
            found.sort(key=lambda each: (each.place in self._failed, uniform(0.0, 1.0)))
        return found

    def _is_alone(self, named: Sequence[Candidate]) -> bool:
        return len(named) == 1 and not self._members

    def _at(self, host: str, port: int) -> Iterable[Candidate]:
        return (Candidate(host, *found) for found in self._waits.addresses(host, port))

    def _everyone(self, named: Sequence[Candidate]) -> list[Candidate]:
        """Return all candidates: the cluster's writer first, those that failed last."""
        found: dict[Address, Candidate] = {}
        for candidate in named:
            found.setdefault(candidate.place, candidate)
        first: Candidate | None = None
        for member in self._members:
            try:
                for candidate in self._at(member.host, member.port or self._target.port):
                    known = found.setdefault(candidate.place, candidate)
                    first = first or (known if member.writes else None)
            except DnsError:
                continue  # a name that the operator's template got wrong, or a member just added
        everyone = sorted(
            found.values(), key=lambda each: (each.place in self._failed, each != first)
        )
        now = self._clock.monotonic()
        waited_for = [each for each in everyone if self._passed_over.get(each, 0.0) <= now]
        return waited_for or everyone

    def _search(
        self,
        candidates: list[Candidate],
        connect: Callable[[Candidate], T],
        is_lost: Callable[[BaseException], bool],
    ) -> T:
        failure: Exception | None = None
        told = self._members
        while candidates:
            winner = self._first_to_answer(candidates, failure)
            candidates.remove(winner)
            try:
                return connect(winner)
            except Exception as exc:
                if not is_lost(exc):
                    raise
                failure = exc
            if self._members != told:  # by the server that was just connected to
                told = self._members
                tried = {each.place for each in candidates} | {winner.place}
                news = [each for each in self._everyone(candidates) if each.place not in tried]
                candidates = [*news, *candidates]
        assert failure is not None
        raise failure

    def _first_to_answer(
        self, candidates: Sequence[Candidate], failure: Exception | None
    ) -> Candidate:
        """Return the first of `candidates` that answers.

        failure: of one that did and was not the right one; the others get little time then.
        """
        by_place = {each.place: each for each in candidates}
        may_ask = self._target.endpoint.silence is not None
        greeting = self._target.driver.GREETING if may_ask else None
        time = ANSWER_WITHIN if failure is None else ANSWER_BESIDE
        try:
            with deadline(time):
                place = self._waits.first_to_answer(
                    self._target.host,
                    list(by_place),
                    lambda place: self.failed(by_place[place]),
                    greeting,
                )
                return by_place[place]
        except (OSError, DeadlineExceededError) as exc:
            if isinstance(exc, DeadlineExceededError):
                until = self._clock.monotonic() + PASSED_OVER * time
                for candidate in candidates:
                    self._passed_over[candidate] = until
            raise failure or self._target.driver.unreachable(str(exc)) from exc


def _topology_of(target: Target) -> "Topology | None":
    if not target.endpoint.writes:
        return None
    from datakit.db.topology import Topology

    return Topology(target.instances)
