"""A cluster's members as rows tell them, and the names they lead to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.db.endpoint import Endpoint, instances_of
from datakit.db.topology import MAX_MEMBERS, Member, members
from datakit.errors import ConfigError

TEMPLATE = "?.abc123.eu-west-1.rds.amazonaws.com"


def test_instances_are_named_by_the_template_and_the_writer_comes_first() -> None:
    rows = [("shop-2", False), ("Shop-1", True), ("shop-3", 0)]
    assert members(rows, TEMPLATE) == (
        Member("shop-1.abc123.eu-west-1.rds.amazonaws.com", True),
        Member("shop-2.abc123.eu-west-1.rds.amazonaws.com", False),
        Member("shop-3.abc123.eu-west-1.rds.amazonaws.com", False),
    )


def test_a_topology_of_endpoints_brings_its_own_names_and_ports() -> None:
    rows = [("db-1.abc.rds.amazonaws.com", None, 3306), ("db-2.abc.rds.amazonaws.com", 1, 3307)]
    assert members(rows, None) == (
        Member("db-2.abc.rds.amazonaws.com", True, 3307),
        Member("db-1.abc.rds.amazonaws.com", False, 3306),
    )


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.text(), st.binary()), st.booleans()), max_size=60),
    st.sampled_from([TEMPLATE, None]),
)
def test_whatever_a_server_says_no_other_place_is_named(
    rows: list[tuple[object, bool]], template: str | None
) -> None:
    """An id with a dot, a slash or a space must not lead out of the account's own names."""
    found = members(rows, template)
    assert len(found) <= MAX_MEMBERS
    for member in found:
        assert all(c.isascii() and (c.isalnum() or c in ".-") for c in member.host)
        if template is not None:
            assert member.host.endswith(template[1:])
            assert "." not in member.host[: -len(template) + 1]


@pytest.mark.parametrize(
    ("host", "template"),
    [
        ("shop.cluster-abc123.eu-west-1.rds.amazonaws.com", TEMPLATE),
        ("shop.cluster-ro-abc123.eu-west-1.rds.amazonaws.com", TEMPLATE),
        ("shop.cluster-custom-abc123.eu-west-1.rds.amazonaws.com", TEMPLATE),
        ("Shop.Cluster-ABC123.eu-west-1.rds.amazonaws.com.", TEMPLATE),
        (
            "shop.cluster-abc123.rds.cn-north-1.amazonaws.com.cn",
            "?.abc123.rds.cn-north-1.amazonaws.com.cn",
        ),
        ("shop-1.abc123.eu-west-1.rds.amazonaws.com", None),
        ("shop.proxy-abc123.eu-west-1.rds.amazonaws.com", None),
        ("db.shop.internal", None),
    ],
)
def test_the_template_is_read_off_a_clusters_name(host: str, template: str | None) -> None:
    assert instances_of(host) == template


@pytest.mark.parametrize("template", ["db.internal", "?.?.internal", ""])
def test_a_template_has_one_place_for_the_id(template: str) -> None:
    with pytest.raises(ConfigError, match="instances="):
        Endpoint(kind="cluster", instances=template)
