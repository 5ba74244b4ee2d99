"""Bad input is refused when the resolver is made, and named."""

from pathlib import Path

import pytest

from datakit import AsyncResolver, Resolver
from datakit.dns.hosts import local_records
from datakit.dns.servers import parse_server
from datakit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("fd00::2", ("fd00::2", 53)),
        ("[fd00::2]:5353", ("fd00::2", 5353)),
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
    [("max_ttl", -1), ("timeout", float("nan")), ("cache_size", 0), ("max_stale", -0.1)],
)
def test_a_figure_out_of_range_is_named(kind: type[Resolver], option: str, value: float) -> None:
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
    assert local_records("other", "A", hosts) is None
    assert local_records("localhost", "MX", hosts) == ()
    assert local_records("localhost", "A", tmp_path / "none") == ("127.0.0.1",)
    assert local_records("app.localhost", "AAAA", hosts) == ("::1",)
    assert local_records("192.0.2.1", "A", hosts) == ("192.0.2.1",)
    assert local_records("192.0.2.1", "AAAA", hosts) == ()
