"""Which server is tried next. Servers and resolver are a table, the clock is passed in."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from datakit.db.drivers import psycopg as driver
from datakit.db.endpoint import PROFILES, Endpoint
from datakit.db.finding import ANSWER_BESIDE, PASSED_OVER, Finder
from datakit.db.plan import hosts_of
from datakit.db.target import Candidate, Target
from datakit.db.topology import Member
from datakit.dns import Address
from datakit.errors import ConfigError, DeadlineExceededError, NameNotFoundError
from datakit.testing import FakeClock


class Lost(Exception):
    pass


class Net:
    """Names, and which addresses answer; those that do not are refused or silent."""

    def __init__(self, names: dict[str, list[str]], alive: set[str], silent: set[str]) -> None:
        self.names = names
        self.alive = alive
        self.silent = silent
        self.reported: list[tuple[str, str]] = []
        self.asked: list[list[str]] = []

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        if name not in self.names:
            raise NameNotFoundError(name)
        return tuple(Address(ip, port) for ip in self.names[name])

    def report_failure(self, name: str, ip: str) -> None:
        self.reported.append((name, ip))

    def first_to_answer(
        self,
        name: str,
        candidates: Sequence[Address],
        failed: Callable[[Address], object],
        greeting: bytes | None,
    ) -> Address:
        self.asked.append([each.ip for each in candidates])
        for each in candidates:
            if each.ip in self.alive:
                return each
            failed(each)
        if any(each.ip in self.silent for each in candidates):
            raise DeadlineExceededError("silent")
        raise OSError("refused")


def finder(net: Net, clock: FakeClock, endpoint: Endpoint, *hosts: str) -> Finder:
    target = Target(
        hosts=tuple((host, 5432) for host in hosts),
        user="app",
        endpoint=endpoint,
        driver=driver,  # type: ignore[arg-type]
    )
    return Finder(target, net, clock)


def writer_is(ip: str, found: Finder) -> Callable[[Candidate], str]:
    """Return what connects: only `ip` takes writes."""

    def connect(candidate: Candidate) -> str:
        if candidate.ip != ip:
            found.failed(candidate)
            raise Lost(candidate.ip)
        found.proved(candidate)
        return candidate.ip

    return connect


def is_lost(exc: BaseException) -> bool:
    return isinstance(exc, Lost | OSError) or type(exc).__name__ == "OperationalError"


IPS = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


@given(
    alive=st.sets(st.sampled_from(IPS)),
    silent=st.sets(st.sampled_from(IPS)),
    writer=st.sampled_from(IPS),
    split=st.integers(1, 3),
)
def test_a_writer_that_lives_is_found_and_nothing_else_is_taken(
    alive: set[str], silent: set[str], writer: str, split: int
) -> None:
    """Whichever of the others are dead, silent or readers, and whichever host leads to it."""
    names = {"a": IPS[:split], "b": IPS[split:]}
    net = Net(names, alive, silent - alive)
    found = finder(net, FakeClock(), PROFILES["cluster"], "a", "b")
    connect = writer_is(writer, found)
    if writer in alive:
        assert found.find(connect, is_lost) == writer
        assert found.was_connected
    else:
        with pytest.raises(Exception) as caught:
            found.find(connect, is_lost)
        assert is_lost(caught.value)
        assert not found.was_connected


def test_the_proven_address_is_gone_to_without_asking() -> None:
    net = Net({"a": ["10.0.0.1"], "b": ["10.0.0.2"]}, {"10.0.0.1", "10.0.0.2"}, set())
    found = finder(net, FakeClock(), PROFILES["cluster"], "a", "b")
    connect = writer_is("10.0.0.1", found)
    found.find(connect, is_lost)
    asked = len(net.asked)
    found.find(connect, is_lost)
    assert len(net.asked) == asked


def test_one_lost_link_is_no_reason_to_ask_the_others_first() -> None:
    """A busy client would miss the healthy writer's answer, and ask the standby again and again."""
    net = Net({"a": ["10.0.0.1"], "b": ["10.0.0.2"]}, {"10.0.0.1", "10.0.0.2"}, set())
    found = finder(net, FakeClock(), PROFILES["cluster"], "a", "b")
    connect = writer_is("10.0.0.1", found)
    found.find(connect, is_lost)
    asked = len(net.asked)
    found.lost(Candidate("a", "10.0.0.1", 5432))
    assert net.reported[-1] == ("a", "10.0.0.1")
    found.find(connect, is_lost)
    assert len(net.asked) == asked


def test_servers_on_two_ports_of_one_address_are_two() -> None:
    net = Net({"a": ["10.0.0.1"]}, {"10.0.0.1"}, set())
    target = Target(
        hosts=(("a", 6001), ("a", 6002)),
        user="app",
        endpoint=PROFILES["cluster"],
        driver=driver,  # type: ignore[arg-type]
    )
    found = Finder(target, net, FakeClock())

    def connect(candidate: Candidate) -> int:
        if candidate.port != 6002:
            found.failed(candidate)
            raise Lost
        found.proved(candidate)
        return candidate.port

    assert found.find(connect, is_lost) == 6002
    found.failed(Candidate("a", "10.0.0.1", 6001))
    asked = len(net.asked)
    assert found.find(connect, is_lost) == 6002
    assert len(net.asked) == asked + 1  # the listed first is not proven: one race, the other wins


def test_one_host_with_one_address_is_not_asked_first() -> None:
    net = Net({"a": ["10.0.0.1"]}, {"10.0.0.1"}, set())
    found = finder(net, FakeClock(), PROFILES["cluster"], "a")
    assert found.find(writer_is("10.0.0.1", found), is_lost) == "10.0.0.1"
    assert net.asked == []


def test_who_was_silent_is_not_waited_for_again_at_once() -> None:
    """Else each look for a promoted reader would take as long as the silence."""
    net = Net({"a": ["10.0.0.1"], "b": ["10.0.0.2"]}, {"10.0.0.2"}, {"10.0.0.1"})
    clock = FakeClock()
    found = finder(net, clock, PROFILES["cluster"], "a", "b")
    connect = writer_is("10.0.0.1", found)
    for _ in range(3):
        with pytest.raises(Lost):
            found.find(connect, is_lost)
    assert sum("10.0.0.1" in asked for asked in net.asked) == 2  # the first round's two
    clock.advance(PASSED_OVER * ANSWER_BESIDE)
    with pytest.raises(Lost):
        found.find(connect, is_lost)
    assert "10.0.0.1" in [ip for asked in net.asked[-2:] for ip in asked]


def test_members_that_a_reader_tells_of_are_tried_in_the_same_round() -> None:
    net = Net(
        {"cluster": ["10.0.0.1"], "one": ["10.0.0.1"], "two": ["10.0.0.2"]},
        {"10.0.0.1", "10.0.0.2"},
        set(),
    )
    found = finder(net, FakeClock(), PROFILES["cluster"], "cluster")
    connect = writer_is("10.0.0.2", found)

    def told(candidate: Candidate) -> str:
        found._members = (Member("two", True), Member("one", False), Member("gone", False))
        return connect(candidate)

    assert found.find(told, is_lost) == "10.0.0.2"
    assert ("cluster", "10.0.0.1") in net.reported
    assert all(name == "cluster" for name, _ in net.reported)


def test_another_error_than_a_lost_link_goes_up() -> None:
    net = Net({"a": ["10.0.0.1"], "b": ["10.0.0.2"]}, {"10.0.0.1", "10.0.0.2"}, set())
    found = finder(net, FakeClock(), PROFILES["cluster"], "a", "b")

    def refuse(candidate: Candidate) -> str:
        raise PermissionError("wrong password")

    with pytest.raises(PermissionError):
        found.find(refuse, lambda exc: isinstance(exc, Lost))


def test_a_name_that_is_gone_does_not_hide_the_others() -> None:
    net = Net({"b": ["10.0.0.2"]}, {"10.0.0.2"}, set())
    found = finder(net, FakeClock(), PROFILES["cluster"], "a", "b")
    assert found.find(writer_is("10.0.0.2", found), is_lost) == "10.0.0.2"
    with pytest.raises(NameNotFoundError):
        lost = finder(net, FakeClock(), PROFILES["cluster"], "a")
        lost.find(writer_is("10.0.0.2", lost), is_lost)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("x://u@a/d", (("a", 5432),)),
        ("x://u@a:7/d", (("a", 7),)),
        ("x://u@[::1]:7/d", (("::1", 7),)),
        ("x://u@/d?host=a:1&host=b", (("a", 1), ("b", 5432))),
        ("x://u@/d?host=a", (("a", 5432),)),
        ("x://u@/d?host=[::1]:7&host=[::2]", (("::1", 7), ("::2", 5432))),
        ("x://u@/d?host=/run/postgresql", ()),
        ("x://u@/d", ()),
    ],
)
def test_the_hosts_of_a_url(url: str, hosts: tuple[tuple[str, int], ...]) -> None:
    assert hosts_of(make_url(url.replace("x:", "postgresql+psycopg:")), 5432) == hosts


@pytest.mark.parametrize("host", ["a:", "a:x", ":5", "a:0", "a:65536"])
def test_a_host_that_cannot_be_read_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="expected host or host:port"):
        hosts_of(make_url(f"postgresql+psycopg://u@/d?host={host}&host=b"), 5432)
