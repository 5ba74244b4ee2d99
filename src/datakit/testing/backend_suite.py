"""What every backend of `datakit.cache` must do, as checks to run against a real one.

    @pytest.mark.parametrize("check", backend_suite.CHECKS, ids=backend_suite.name_of)
    async def test_backend(check, subject):
        await check(subject)

A check raises AssertionError. Each uses keys of its own, so that one server serves all.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, TypeAlias
from uuid import uuid4

from datakit.cache.backends.base import Fill, Grant

MONTH: Final = 30 * 86_400.0


async def _real_sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@dataclass
class Subject:
    """A backend under test, for threads or for tasks.

    stored: makes of bytes what the backend keeps; the bytes themselves where it is a server.
    sleep: lets its clock go on by seconds. shortest: seconds that its clock can tell apart.
    """

    backend: Any
    stored: Callable[[bytes], Any] = bytes
    sleep: Callable[[float], Awaitable[None]] = _real_sleep
    shortest: float = 0.05
    prefix: str = field(default_factory=lambda: uuid4().hex)

    def key(self, name: str = "k") -> str:
        """Return a key that no other subject has."""
        return f"{self.prefix}:{name}"

    async def call(self, method: str, *args: Any) -> Any:
        """Return the answer of a method, from a thread where it is not awaitable."""
        fn = getattr(self.backend, method)
        if inspect.iscoroutinefunction(fn):
            return await fn(*args)
        return await asyncio.to_thread(fn, *args)

    async def get(self, key: str) -> Any:
        """Return what is stored."""
        return await self.call("get", key)

    async def set(self, key: str, value: bytes, seconds: float = 60.0) -> None:
        """Store in place of whatever is there."""
        await self.call("set", [(key, self.stored(value), seconds)])

    async def acquire(self, key: str, seconds: float = 60.0, seize: bool = False) -> Grant[Any]:
        """Take one lease."""
        grants: list[Grant[Any]] = await self.call("acquire", [key], seconds, seize)
        assert len(grants) == 1
        return grants[0]

    async def fill(self, key: str, value: bytes, grant: Grant[Any], seconds: float = 60.0) -> bool:
        """Store one loaded value."""
        assert grant.lease is not None
        kept: list[bool] = await self.call(
            "fill", [Fill(key, self.stored(value), seconds, grant.lease)]
        )
        return kept == [True]

    async def holds(self, key: str, value: bytes | None) -> bool:
        """Return whether that is what is stored."""
        return bool(await self.get(key) == (None if value is None else self.stored(value)))


Check: TypeAlias = Callable[[Subject], Awaitable[None]]


async def nothing_is_there_at_first(subject: Subject) -> None:
    """`get` gives None, `delete` of nothing is no error."""
    assert await subject.get(subject.key()) is None
    await subject.call("delete", [subject.key()])


async def what_is_set_is_there(subject: Subject) -> None:
    """Whatever its bytes are, and only under its key; set again replaces it."""
    key = subject.key()
    for value in (b"x", b"\r\nEND\r\n", bytes(range(256)), b"VA 3\r\n", b"x" * 900_000):
        await subject.set(key, value)
        assert await subject.holds(key, value)
    assert await subject.get(subject.key("other")) is None


async def long_and_odd_keys_stay_apart(subject: Subject) -> None:
    """Printable ASCII without spaces, up to 200 characters."""
    names = ["".join(map(chr, range(33, 127))), "x" * 160, "x" * 159 + "y", "{a}", "{a}lease"]
    for name in names:
        await subject.set(subject.key(name), name.encode())
    for name in names:
        assert await subject.holds(subject.key(name), name.encode())


async def what_is_deleted_is_gone(subject: Subject) -> None:
    """Several at once; the others stay."""
    for name in "abc":
        await subject.set(subject.key(name), name.encode())
    await subject.call("delete", [subject.key("a"), subject.key("c")])
    found = [await subject.get(subject.key(name)) for name in "abc"]
    assert found == [None, subject.stored(b"b"), None]


async def many_are_read_in_order(subject: Subject) -> None:
    """One answer for each key, also for the same one twice."""
    for name in "ac":
        await subject.set(subject.key(name), name.encode())
    found = await subject.call("get_many", [subject.key(name) for name in "abca"])
    assert found == [subject.stored(b"a"), None, subject.stored(b"c"), subject.stored(b"a")]


async def a_long_life_is_no_short_one(subject: Subject) -> None:
    """Over 30 days, where memcached reads a date; for ever; and well below a second."""
    for seconds in (MONTH + 5, 20 * 365 * 86_400.0, inf):
        await subject.set(subject.key(), b"x", seconds)
        assert await subject.holds(subject.key(), b"x")
    await subject.set(subject.key("short"), b"x", 0.4)
    assert await subject.holds(subject.key("short"), b"x")


async def one_gets_the_lease(subject: Subject) -> None:
    """Of any number at once; the others get none until it ends."""
    grants = await asyncio.gather(*(subject.acquire(subject.key()) for _ in range(20)))
    assert sum(grant.lease is not None for grant in grants) == 1
    assert all(grant.stored is None for grant in grants)


async def the_lease_comes_with_what_is_stored(subject: Subject) -> None:
    """So that a value which another holder stored meanwhile is not loaded again."""
    await subject.set(subject.key(), b"old")
    first, second = await subject.acquire(subject.key()), await subject.acquire(subject.key())
    assert (first.stored, second.stored) == (subject.stored(b"old"),) * 2
    assert first.lease is not None
    assert second.lease is None


async def a_fill_stores_and_ends_the_lease(subject: Subject) -> None:
    """The next one can have it."""
    for value in (b"first", b"second"):
        assert await subject.fill(subject.key(), value, await subject.acquire(subject.key()))
        assert await subject.holds(subject.key(), value)


async def a_lease_is_given_back(subject: Subject) -> None:
    """When there is nothing to store."""
    grant = await subject.acquire(subject.key())
    assert await subject.call("release", [(subject.key(), grant.lease)]) == [True]
    assert (await subject.acquire(subject.key())).lease is not None
    assert await subject.get(subject.key()) is None


async def the_holder_of_a_lease_is_told_from_the_next_one(subject: Subject) -> None:
    """So that who waits sees that they come and go."""
    key = subject.key()
    seen = []
    for _ in range(2):
        grant = await subject.acquire(key)
        assert grant.holder is not None
        assert (await subject.acquire(key)).holder == grant.holder
        seen.append(grant.holder)
        await subject.call("release", [(key, grant.lease)])
    assert seen[0] != seen[1]


async def a_lease_that_is_given_back_tells_whether_it_still_held(subject: Subject) -> None:
    """Not after an invalidation, nor once others have it: what was read is older than that."""
    deleted, taken, held = (subject.key(name) for name in ("deleted", "taken", "held"))
    leases = [(await subject.acquire(key)).lease for key in (deleted, taken, held)]
    await subject.call("delete", [deleted])
    seized = (await subject.acquire(taken, seize=True)).lease
    told = await subject.call("release", list(zip((deleted, taken, held), leases, strict=True)))
    assert told == [False, False, True]
    assert (await subject.acquire(taken)).lease is None, "another's lease was given back"
    assert await subject.call("release", [(taken, seized)]) == [True]


async def an_invalidation_wins_over_a_late_fill(subject: Subject) -> None:
    """Whether or not something was stored before."""
    for before in (None, b"old"):
        if before is not None:
            await subject.set(subject.key(), before)
        grant = await subject.acquire(subject.key())
        await subject.call("delete", [subject.key()])
        assert not await subject.fill(subject.key(), b"late", grant)
        assert await subject.get(subject.key()) is None


async def a_set_wins_over_a_late_fill(subject: Subject) -> None:
    """The value that was put stays."""
    grant = await subject.acquire(subject.key())
    await subject.set(subject.key(), b"put")
    assert not await subject.fill(subject.key(), b"late", grant)
    assert await subject.holds(subject.key(), b"put")


async def a_load_begun_after_an_invalidation_wins(subject: Subject) -> None:
    """Over one begun before it, in whichever order they end."""
    for late_first in (True, False):
        key = subject.key(str(late_first))
        early = await subject.acquire(key)
        await subject.call("delete", [key])
        late = await subject.acquire(key)
        assert late.lease is not None
        order = [(late, b"new", True), (early, b"old", False)]
        for grant, value, is_kept in order if late_first else reversed(order):
            assert await subject.fill(key, value, grant) is is_kept
        assert await subject.holds(key, b"new")


async def a_dead_holders_lease_ends(subject: Subject) -> None:
    """And what the next holder stored is not replaced when the dead one wakes up."""
    dead = await subject.acquire(subject.key(), subject.shortest)
    assert dead.lease is not None
    alive = await subject.acquire(subject.key())
    for _ in range(200):
        if alive.lease is not None:
            break
        await subject.sleep(max(subject.shortest / 10, 0.05))
        alive = await subject.acquire(subject.key())
    assert await subject.fill(subject.key(), b"alive", alive)
    assert not await subject.fill(subject.key(), b"dead", dead)
    assert await subject.holds(subject.key(), b"alive")


async def a_lease_can_be_seized(subject: Subject) -> None:
    """The former holder's value is not stored, the new one's is; what is there stays till then."""
    for before in (None, b"old"):
        if before is not None:
            await subject.set(subject.key(), before)
        former = await subject.acquire(subject.key())
        latter = await subject.acquire(subject.key(), 60.0, True)
        assert await subject.holds(subject.key(), before)
        assert not await subject.fill(subject.key(), b"former", former)
        assert await subject.fill(subject.key(), b"latter", latter)
        assert await subject.holds(subject.key(), b"latter")
        await subject.call("delete", [subject.key()])


async def many_are_loaded_at_once(subject: Subject) -> None:
    """Each lease stands for itself."""
    keys = [subject.key(name) for name in "abc"]
    taken = await subject.acquire(keys[1])
    grants = await subject.call("acquire", keys, 60.0)
    assert [grant.lease is not None for grant in grants] == [True, False, True]
    await subject.call("delete", [keys[2]])
    fills = [
        Fill(key, subject.stored(b"x"), 60.0, grant.lease)
        for key, grant in zip(keys, grants, strict=True)
        if grant.lease is not None
    ]
    assert await subject.call("fill", fills) == [True, False]
    assert await subject.fill(keys[1], b"y", taken)


async def a_closed_one_opens_again(subject: Subject) -> None:
    """At the next use."""
    await subject.call("close")
    await subject.set(subject.key(), b"x")
    assert await subject.holds(subject.key(), b"x")


CHECKS: Final[tuple[Check, ...]] = (
    nothing_is_there_at_first,
    what_is_set_is_there,
    long_and_odd_keys_stay_apart,
    what_is_deleted_is_gone,
    many_are_read_in_order,
    a_long_life_is_no_short_one,
    one_gets_the_lease,
    the_lease_comes_with_what_is_stored,
    a_fill_stores_and_ends_the_lease,
    a_lease_is_given_back,
    a_lease_that_is_given_back_tells_whether_it_still_held,
    the_holder_of_a_lease_is_told_from_the_next_one,
    an_invalidation_wins_over_a_late_fill,
    a_set_wins_over_a_late_fill,
    a_load_begun_after_an_invalidation_wins,
    a_dead_holders_lease_ends,
    a_lease_can_be_seized,
    many_are_loaded_at_once,
    a_closed_one_opens_again,
)
"""All of them, each a function of a `Subject`."""


def name_of(check: Check) -> str:
    """Return a check's name."""
    return getattr(check, "__name__", repr(check))
