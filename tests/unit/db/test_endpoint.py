"""Which kind of endpoint a host name is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.db.endpoint import KINDS, PROFILES, Endpoint, endpoint_for, kind_of
from datakit.errors import ConfigError

HOSTS = [
    ("shop.proxy-abc123xyz.eu-west-1.rds.amazonaws.com", "proxy"),
    ("readers.endpoint.proxy-abc123xyz.eu-west-1.rds.amazonaws.com", "proxy"),
    ("shop.cluster-abc123xyz.eu-west-1.rds.amazonaws.com", "cluster"),
    ("shop.cluster-ro-abc123xyz.eu-west-1.rds.amazonaws.com", "reader"),
    ("batch.cluster-custom-abc123xyz.eu-west-1.rds.amazonaws.com", "reader"),
    ("shop-1.abc123xyz.us-gov-west-1.rds.amazonaws.com", "instance"),
    ("shop.proxy-abc123xyz.rds.cn-north-1.amazonaws.com.cn", "proxy"),
    ("r.endpoint.proxy-abc123xyz.rds.cn-north-1.amazonaws.com.cn", "proxy"),
    ("shop.cluster-abc123xyz.rds.cn-northwest-1.amazonaws.com.cn", "cluster"),
    ("shop.cluster-ro-abc123xyz.rds.cn-north-1.amazonaws.com.cn", "reader"),
    ("shop-1.abc123xyz.rds.cn-north-1.amazonaws.com.cn", "instance"),
    ("SHOP.CLUSTER-ABC123XYZ.EU-WEST-1.RDS.AMAZONAWS.COM.", "cluster"),
    ("db.shop.internal", "generic"),
    ("127.0.0.1", "generic"),
    ("::1", "generic"),
    ("shop.cluster-abc.eu-west-1.rds.amazonaws.com.evil.example", "generic"),
    ("eu-west-1.rds.amazonaws.com", "generic"),
    ("", "generic"),
]


@pytest.mark.parametrize(("host", "kind"), HOSTS)
def test_the_kind_is_read_off_the_host_name(host: str, kind: str) -> None:
    assert kind_of(host) == kind
    assert endpoint_for(host, "auto").kind == kind


@given(st.text(max_size=80))
def test_any_text_is_some_kind(host: str) -> None:
    assert kind_of(host) in KINDS


def test_what_is_given_wins_over_the_name() -> None:
    own = Endpoint(kind="cluster", connect_timeout=1.0)
    assert endpoint_for(HOSTS[0][0], own) is own
    assert endpoint_for("db.shop.internal", "proxy") is PROFILES["proxy"]


@pytest.mark.parametrize("given", ["primary", "", None, 3])
def test_a_kind_that_does_not_exist_is_named(given: object) -> None:
    with pytest.raises(ConfigError, match="proxy, cluster, reader, instance, generic, lambda"):
        endpoint_for("db.shop.internal", given)  # type: ignore[arg-type]
    if isinstance(given, str):
        with pytest.raises(ConfigError, match="Endpoint"):
            Endpoint(kind=given)


def test_profiles_follow_the_documentation() -> None:
    assert set(PROFILES) == set(KINDS)
    for kind in ("proxy", "lambda"):
        profile = PROFILES[kind]
        assert profile.pins
        assert profile.probe_after is None  # discouraged by RDS Proxy's documentation
        assert profile.recycle < 30 * 60  # its idle client timeout
    assert (PROFILES["lambda"].pool_size, PROFILES["lambda"].max_overflow) == (1, 0)
    assert PROFILES["cluster"].deadline == PROFILES["instance"].deadline == 60
