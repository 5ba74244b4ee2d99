"""Which keys a batch loads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from datakit.cache.claims import Claims


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
