"""Whether a pooled connection may be handed out."""

from hypothesis import given
from hypothesis import strategies as st

from datakit.db.checkout import FROZEN, LOOK_EVERY, Look, Peer
from datakit.db.target import Candidate

SERVER = Candidate("db.internal", "192.0.2.1", 5432)

seconds = st.floats(0, 100_000)
PROFILE = {"recycle": 1_500.0, "probe_after": 5.0}


def test_a_connection_is_not_looked_at_again_for_a_moment() -> None:
    peer = Peer(SERVER, 10.0, 1_000.0)
    assert peer.is_fresh(10.0 + LOOK_EVERY / 2, 1_000.0 + LOOK_EVERY / 2)
    assert not peer.is_fresh(10.0 + LOOK_EVERY, 1_000.0)
    assert not peer.is_fresh(10.0, 1_000.0 + LOOK_EVERY)  # frozen: one clock stood still


@given(idle=seconds)
def test_it_is_probed_after_idle_seconds_and_replaced_when_old(idle: float) -> None:
    peer = Peer(SERVER, 0.0, 0.0)
    look = peer.look(idle, idle, recycle=1_500.0, probe_after=5.0)
    expected = Look.DISCARD if idle >= 1_500 else Look.PROBE if idle >= 5 else Look.USE
    assert look is expected or min(abs(idle - 5), abs(idle - 1_500)) < 1e-6


@given(idle=seconds, frozen=st.floats(FROZEN * 1.01, 1_000))
def test_a_frozen_process_probes_even_where_probes_are_off(idle: float, frozen: float) -> None:
    peer = Peer(SERVER, 0.0, 0.0)
    look = peer.look(idle, idle + frozen, recycle=float("inf"), probe_after=None)
    assert look is Look.PROBE
    assert peer.look(idle, idle, recycle=float("inf"), probe_after=None) is Look.USE


def test_use_does_not_make_it_younger() -> None:
    peer = Peer(SERVER, 0.0, 0.0)
    for now in range(0, 1_500, 4):
        assert peer.look(now, now, **PROFILE) is Look.USE
        peer.note_seen(now, now)
    assert peer.look(1_500, 1_500, **PROFILE) is Look.DISCARD
