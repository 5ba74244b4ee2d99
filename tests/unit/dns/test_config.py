"""Bad input is refused when the resolver is made, and named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit import AsyncResolver, Resolver
from datakit.dns.config import Configuration, Settings, candidates, parse_resolv_conf
from datakit.dns.hosts import local_records
from datakit.dns.question import key_of
from datakit.dns.servers import ServerGroup, parse_server
from datakit.errors import ConfigError, MissingExtraError


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("fd00::2", ("fd00::2", 53)),
        ("[fd00::2]:5353", ("fd00::2", 5353)),
        ("tls://192.0.2.9", ("192.0.2.9", 853)),
        ("tls://192.0.2.9:8853#dns.example", ("192.0.2.9", 8853)),
        ("tls://[fd00::2]:8853", ("fd00::2", 8853)),
    ],
)
def test_a_server_is_an_address_with_or_without_a_port(text: str, server: object) -> None:
    parsed = parse_server(text)
    assert (parsed.address, parsed.port) == server


@pytest.mark.parametrize("text", ["dns.example", "10.0.0.2:dns", "10.0.0.2:0", "1.2.3.4:99999", ""])
@pytest.mark.parametrize("kind", [Resolver, AsyncResolver])
def test_anything_else_is_refused(kind: type[Resolver], text: str) -> None:
    with pytest.raises(ConfigError, match="DNS server"):
        kind([text])


@pytest.mark.parametrize("kind", [Resolver, AsyncResolver])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_ttl", -1), ("timeout", float("nan")), ("timeout", 0), ("deadline", "5"),
        ("cache_size", 0), ("max_stale", -0.1), ("min_ttl", 301), ("servers", "10.0.0.2"),
        ("servers", []), ("zones", {"corp": []}), ("search", "corp"),
        ("allowed_networks", ["10.0.0.0/99"]),
    ],
)  # fmt: skip
def test_a_figure_out_of_range_is_named(kind: type[Resolver], option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        kind(**{option: value})  # type: ignore[arg-type]


def test_names_that_need_no_server(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "192.0.2.9  DB.internal db # the database\n# 192.0.2.8 db.internal\nfd00::9 db.internal\n"
    )
    assert local_records("db.internal", "A", hosts) == ("192.0.2.9",)
    assert local_records("db.internal.", "AAAA", hosts) == ("fd00::9",)
    assert local_records("db", "A", hosts) == ("192.0.2.9",)
    assert local_records("db", "TXT", hosts) is None
    assert local_records("db", "AAAA", hosts) == ()  # known, and without one
    assert local_records("other", "A", hosts) is None
    assert local_records("localhost", "MX", hosts) == ()
    assert local_records("localhost", "A", tmp_path / "none") == ("127.0.0.1",)
    assert local_records("app.localhost", "AAAA", hosts) == ("::1",)
    assert local_records("192.0.2.1", "A", hosts) == ("192.0.2.1",)
    assert local_records("192.0.2.1", "AAAA", hosts) == ()


CONF = """
# a comment
nameserver 192.0.2.1
nameserver not-an-address
nameserver
nameserver fd00::53
; another
domain first.example
search shop.internal corp.internal
options ndots:3 timeout:1 attempts:4 rotate unknown:7
nameserver 192.0.2.2
nameserver 192.0.2.3
"""


def test_resolv_conf_is_read_as_the_c_library_reads_it() -> None:
    settings = parse_resolv_conf(CONF)
    addresses = [server.address for server in settings.group.servers]
    assert addresses == ["192.0.2.1", "fd00::53", "192.0.2.2"]  # three at most
    assert settings.search == ("shop.internal", "corp.internal")  # the last one counts
    assert (settings.ndots, settings.timeout, settings.attempts) == (3, 1.0, 4)
    bare = parse_resolv_conf("nameserver 192.0.2.1\noptions ndots:99 timeout:0 attempts:x")
    assert (bare.ndots, bare.timeout, bare.attempts, bare.search) == (15, 1.0, 2, ())


def test_rotation_begins_each_lookup_with_the_next_server() -> None:
    def firsts(options: str) -> list[str]:
        text = "nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions " + options
        group = parse_resolv_conf(text).group
        return [group.order(0.0)[0].address for _ in range(3)]

    assert firsts("rotate") == ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
    assert firsts("ndots:1") == ["192.0.2.1"] * 3


def test_resolv_conf_is_read_again_when_it_changes_and_looked_at_once_a_second(
    tmp_path: Path,
) -> None:
    path = tmp_path / "resolv.conf"
    with pytest.raises(ConfigError, match="no DNS server"):
        Configuration(None, None, None, path).settings(0.0)
    path.write_text("nameserver 192.0.2.1\n")
    configuration = Configuration(None, None, None, path)

    def servers(now: float) -> list[str]:
        return [server.address for server in configuration.settings(now).group.servers]

    assert servers(10.0) == ["192.0.2.1"]
    new = tmp_path / "new"
    new.write_text("nameserver 192.0.2.2\n")
    new.rename(path)
    assert servers(10.9) == ["192.0.2.1"]
    assert servers(11.0) == ["192.0.2.2"]
    path.unlink()
    assert servers(13.0) == ["192.0.2.2"]


def test_a_server_keeps_its_record_while_resolv_conf_stays(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    configuration = Configuration(None, None, None, path)
    first = configuration.settings(0.0).group.servers[0]
    assert configuration.settings(100.0).group.servers[0] is first


@pytest.mark.parametrize(
    ("name", "ndots", "names"),
    [
        ("db", 1, ["db.a", "db.b", "db"]),
        ("db.x", 1, ["db.x", "db.x.a", "db.x.b"]),
        ("db.x", 2, ["db.x.a", "db.x.b", "db.x"]),
        ("db.", 1, ["db"]),
        (".", 1, ["."]),
    ],
)
def test_search_domains_come_before_or_after_the_name_by_its_dots(
    name: str, ndots: int, names: list[str]
) -> None:
    settings = Settings(ServerGroup([]), ("a", "b."), ndots, None, 2)
    assert candidates(name, settings) == names


labels = st.text("ab", min_size=1, max_size=2)
domains = st.lists(labels, min_size=1, max_size=4).map(".".join)


@given(zones=st.sets(domains, min_size=1, max_size=6), name=domains)
def test_the_most_specific_zone_that_holds_a_name_is_asked(zones: set[str], name: str) -> None:
    configuration = Configuration(["192.0.2.1"], {zone: ["192.0.2.2"] for zone in zones}, None)
    holding = [z for z in zones if name == z or name.endswith(f".{z}")]
    group = configuration.group_for(name, configuration.settings(0.0))
    if holding:
        assert group is configuration._zones[max(holding, key=len)]
    else:
        assert group is configuration.settings(0.0).group


def test_a_silent_server_is_asked_last_for_longer_each_time_and_first_once_it_answers() -> None:
    first, second = parse_server("192.0.2.1"), parse_server("192.0.2.2")
    group = ServerGroup([first, second])
    assert group.order(0.0) == [first, second]
    now = 0.0
    for aside in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        for _ in range(10):  # found out by ten lookups at once
            first.failed(now, silent=True)
        assert group.order(now + aside - 0.01) == [second, first]
        assert group.order(now + aside) == [first, second]
        now += aside
    first.succeeded()
    first.failed(now, silent=True)
    assert group.order(now + 1.0) == [first, second]
    second.failed(now, silent=False)  # it answered, with an error
    assert (second.failures, second.aside_until) == (1, 0.0)


def test_dns_over_https_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dns.query.have_doh", False)
    with pytest.raises(MissingExtraError, match=r"datakit\[doh\]"):
        Resolver(["https://dns.example/dns-query"])


def test_zones_are_named_in_any_form() -> None:
    zones = {"BÜCHER.internal.": ["192.0.2.2"], ".": ["192.0.2.3"]}
    configuration = Configuration(["192.0.2.1"], zones, None)
    settings = configuration.settings(0.0)
    for name, server in (("a.xn--bcher-kva.internal.", "192.0.2.2"), ("other.", "192.0.2.3")):
        assert configuration.group_for(name, settings).servers[0].address == server


@pytest.mark.parametrize("zone", ["*.corp", "a b.c", "a..b", 7])
def test_a_zone_that_is_no_name_is_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match="zones"):
        Configuration(None, {zone: ["192.0.2.2"]}, None)


@pytest.mark.parametrize(
    ("question", "key"),
    [
        (("DB.Shop.Internal.", "a"), ("db.shop.internal", "A")),
        (("db.shop.internal", "TYPE1"), ("db.shop.internal", "A")),
        (("db.", "AAAA"), ("db.", "AAAA")),
        (("db", "type65280"), ("db", "TYPE65280")),
    ],
)
def test_a_question_has_one_form(question: tuple[str, str], key: tuple[str, str]) -> None:
    assert key_of(*question) == key


@pytest.mark.parametrize("question", [(None, "A"), (b"x", "A"), ("x", None), ("x", "NONSENSE")])
def test_what_is_no_question_is_refused(question: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        key_of(*question)
