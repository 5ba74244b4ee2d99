"""Which keys a batch loads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from datakit.cache.claims import ABANDONED, Claims


def test_a_key_may_be_forgotten_while_others_are_claimed() -> None:
    """The garbage collector may end an invalidation at any moment, in the same thread."""
    claims = Claims()

    def keys() -> Iterator[str]:
        yield "a"
        claims.forget("b")
        yield "c"

    with ThreadPoolExecutor(1) as pool:
        mine, others = pool.submit(claims.claim, keys()).result(10)
    assert (list(mine), list(others)) == (["a", "c"], [])


def test_a_batch_interrupted_at_any_moment_abandons_its_keys() -> None:
    """Nobody waits for it."""
    claims = Claims()
    for broken_after in range(4):

        def keys(broken_after: int = broken_after) -> Iterator[str]:
            for n in range(3):
                if n == broken_after:
                    raise KeyboardInterrupt
                yield str(n)

        with suppress(KeyboardInterrupt):
            claims.claim(keys())
        mine, others = claims.claim(["0", "1", "2"])
        assert (len(mine), len(others)) == (3, 0)
        del mine


def test_those_who_wait_for_a_batch_that_is_gone_load_themselves() -> None:
    claims = Claims()
    mine, _ = claims.claim(["a"])
    _, others = claims.claim(["a"])
    del mine
    assert others["a"].result(0) is ABANDONED
