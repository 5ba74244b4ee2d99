"""Where a cache lies, and mistakes told without the password."""

from typing import Any

import pytest

from datakit.cache import Cache
from datakit.cache.backends.url import PLANNED, parse_url
from datakit.errors import ConfigError

SECRET = "canary-secret"


def test_parts_of_a_redis_url() -> None:
    """Percent-encoding is undone, the rest has defaults."""
    target = parse_url(f"rediss://app:{SECRET}%2F@cache.example:6380/2?ssl_ca_certs=/ca.pem")
    assert (target.host, target.port, target.db, target.tls) == ("cache.example", 6380, 2, True)
    assert (target.username, target.password, target.ca) == ("app", f"{SECRET}/", "/ca.pem")
    assert str(parse_url("redis://")) == "redis://localhost:6379/0"


def test_password_stays_out_of_reprs() -> None:
    """Of the target and of the cache."""
    url = f"redis://app:{SECRET}@cache.example"
    assert SECRET not in repr(parse_url(url)) + str(parse_url(url)) + repr(Cache(url))


@pytest.mark.parametrize("scheme", PLANNED)
def test_planned_scheme_says_so(scheme: str) -> None:
    """What is in the contract and not there yet."""
    with pytest.raises(ConfigError, match="not available yet"):
        Cache(f"{scheme}://h1,h2")


@pytest.mark.parametrize(
    "url",
    ["", SECRET, f"http://app:{SECRET}@h", f"redis://app:{SECRET}@h:port", f"redis://app:{SECRET}@h/db",
     f"redis://app:{SECRET}@h?timeout=3", "memory://somewhere", f"redis:app:{SECRET}@h",
     f"redis://app:{SECRET}@[h", "redis://h?ssl_ca_certs=/ca.pem", f"redis://app:{SECRET}@h:0",
     f"redis://:1234#{SECRET}@h", f"redis://:1234/{SECRET}@h", f"redis://:1234?{SECRET}@h",
     f"redis://app:{SECRET}@a,b", f"redis://app:{SECRET}@a:1,b:2", f"redis://app:{SECRET}@h h"],
)  # fmt: skip
def test_mistaken_url_is_refused_without_the_password(url: str) -> None:
    """The message is about the mistake alone, and so is what it is chained to."""
    with pytest.raises(ConfigError) as caught:
        Cache(url)
    error = caught.value
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize("mark", "#/?")
def test_mark_in_a_password_is_to_be_encoded(mark: str) -> None:
    """What stands before it would be taken for the port of localhost."""
    with pytest.raises(ConfigError, match="percent-encode"):
        Cache(f"redis://:1234{mark}{SECRET}@h")


@pytest.mark.parametrize("place", ["a,b", "a:1,b:2", f"app:{SECRET}@a,b/0"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "memcached"])
def test_several_hosts_are_not_there_yet(scheme: str, place: str) -> None:
    """Whatever their ports; a comma in a password is one."""
    with pytest.raises(ConfigError, match="several hosts are not available yet"):
        parse_url(f"{scheme}://{place}")
    assert parse_url("redis://:a,b@h:7000").password == "a,b"


@pytest.mark.parametrize("url", [None, f"redis://:{SECRET}@h".encode(), 6379])
def test_what_is_no_text_is_refused(url: Any) -> None:
    """By its type."""
    with pytest.raises(ConfigError, match=f"not a {type(url).__name__}") as caught:
        Cache(url)
    assert SECRET not in str(caught.value)


def test_unknown_scheme_names_the_known_ones() -> None:
    """So that the user can choose."""
    with pytest.raises(ConfigError, match=r"memory://, redis://, rediss://"):
        Cache("mongodb://h")
