"""In which order addresses are tried."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from datakit.dns.addresses import Address, interleaved, ordered, precedence

addresses = st.lists(st.ip_addresses().map(str), unique=True, max_size=12)


@given(addresses, st.sets(st.integers(0, 11)), st.randoms(use_true_random=False))
def test_all_are_there_the_healthy_first_and_the_preferred_family_before_the_other(
    ips: list[str], sick: set[int], source: random.Random
) -> None:
    unhealthy = {ip for i, ip in enumerate(ips) if i in sick}
    order = ordered(ips, lambda ip: ip not in unhealthy, source.random)
    assert sorted(order) == sorted(ips)
    keys = [(ip in unhealthy, -precedence(ip)) for ip in order]
    assert keys == sorted(keys)


def test_load_spreads_over_equals() -> None:
    ips = [f"192.0.2.{n}" for n in range(4)]
    firsts = [ordered(ips, lambda _: True, random.random)[0] for _ in range(400)]
    assert all(firsts.count(ip) > 40 for ip in ips)


def test_precedence_is_rfc_6724s() -> None:
    order = ["::1", "2001:db8::1", "192.0.2.1", "2002::1", "2001::1", "fd00::1", "3ffe::1"]
    assert sorted(order, key=precedence, reverse=True) == order


@given(addresses)
def test_families_take_turns_and_none_is_lost(ips: list[str]) -> None:
    given_order = [Address(ip, 5432) for ip in ips]
    turns = interleaved(given_order)
    assert sorted(turns) == sorted(given_order)
    for family in (True, False):
        own = [a for a in turns if (":" in a.ip) is family]
        assert own == [a for a in given_order if (":" in a.ip) is family]
    both = min(sum(":" in ip for ip in ips), sum(":" not in ip for ip in ips))
    kinds = [":" in a.ip for a in turns[: 2 * both]]
    assert all(a != b for a, b in pairwise(kinds))
