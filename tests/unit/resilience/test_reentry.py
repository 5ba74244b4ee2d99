"""Which shapes of code are certain to come round to their loop."""

import sys
from collections.abc import Awaitable, Iterator
from types import TracebackType

import pytest

from datakit.resilience.reentry import LoopHead, comes_round, is_generator, loop_head


class Probe:
    """Iterates twice; notes at each exit what `comes_round` says, and swallows errors."""

    def __init__(self) -> None:
        self.turns = 2
        self.seen: list[bool] = []
        self.head: LoopHead | None = None

    def __iter__(self) -> "Probe":
        return self

    def __next__(self) -> "Probe":
        self.head = loop_head(sys._getframe(1))
        self.turns -= 1
        if self.turns < 0:
            raise StopIteration
        return self

    def __enter__(self) -> int:
        return self.turns

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        frame = sys._getframe(1)
        self.seen.append(not is_generator(frame) and comes_round(frame, self.head))
        return isinstance(exc, ValueError)

    def __aiter__(self) -> "Probe":
        return self

    def __anext__(self) -> Awaitable["Probe"]:
        self.head = loop_head(sys._getframe(1))
        return self._next()

    async def _next(self) -> "Probe":
        self.turns -= 1
        if self.turns < 0:
            raise StopAsyncIteration
        return self

    async def __aenter__(self) -> int:
        return self.turns

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        frame = sys._getframe(1)
        self.seen.append(not is_generator(frame) and comes_round(frame, self.head))
        return isinstance(exc, ValueError)


def falls_through(probe: Probe) -> int | None:
    last = None
    for tx in probe:
        with tx as turn:
            last = turn
    return last


def fails_in_body(probe: Probe) -> None:
    for tx in probe:
        with tx:
            raise ValueError


def returns_inside(probe: Probe) -> int | None:
    for tx in probe:
        with tx as turn:
            return turn
    return None


def returns_after(probe: Probe) -> int | None:
    for tx in probe:
        with tx as turn:
            probe.turns = turn
        return turn
    return None


def fails_then_returns_after(probe: Probe) -> None:
    for tx in probe:
        with tx:
            raise ValueError
        return


def breaks_inside(probe: Probe) -> None:
    for tx in probe:
        with tx:
            break


def works_after(probe: Probe) -> list[int]:
    turns = []
    for tx in probe:
        with tx as turn:
            pass
        turns.append(turn)
        if turn > 5:
            continue
        turns.append(-turn)
    return turns


def continues_inside(probe: Probe) -> None:
    for tx in probe:
        with tx as turn:
            if turn:
                continue
            probe.seen.append(True)


def inside_try(probe: Probe) -> None:
    try:
        for tx in probe:
            try:
                with tx:
                    pass
            finally:
                probe.seen.append(True)
    except KeyError:
        return


def without_a_loop(probe: Probe) -> None:
    with probe:
        pass


def returns_conditionally(probe: Probe) -> int:
    for tx in probe:
        with tx as turn:
            if turn == 0:
                return turn
    return 9


def breaks_after_inside_another_loop(probe: Probe) -> None:
    for _ in range(1):
        for tx in probe:
            with tx:
                raise ValueError
            break


def breaks_inside_another_loop(probe: Probe) -> None:
    for _ in range(1):
        for tx in probe:
            with tx:
                break


def breaks_before_another_loop(probe: Probe) -> int:
    for tx in probe:
        with tx:
            raise ValueError
        break
    return sum(n for n in range(3))


def in_another_loop_than_its_own(probe: Probe) -> None:
    attempts = iter(probe)
    tx = next(attempts)
    for _ in range(1):
        with tx:
            raise ValueError


def in_a_generator(probe: Probe) -> None:
    def generator() -> Iterator[int]:
        for tx in probe:
            with tx as turn:
                yield turn

    next(generator())


def inside_and_around_other_loops(probe: Probe) -> int:
    total = 0
    for _ in range(1):
        for tx in probe:
            with tx as turn:
                for _ in range(2):
                    total += turn
            for _ in range(2):
                total += 1
        while total > 100:
            total -= 1
    return total


LOOPS = [
    inside_and_around_other_loops,
    falls_through,
    fails_in_body,
    works_after,
    continues_inside,
    inside_try,
]
LEAVES = [
    breaks_after_inside_another_loop,
    breaks_inside_another_loop,
    breaks_before_another_loop,
    in_another_loop_than_its_own,
    in_a_generator,
    returns_inside,
    returns_after,
    fails_then_returns_after,
    breaks_inside,
    without_a_loop,
]


@pytest.mark.parametrize("shape", LOOPS, ids=lambda f: f.__name__)
def test_a_body_that_reaches_its_end_comes_round(shape: object) -> None:
    probe = Probe()
    shape(probe)  # type: ignore[operator]
    assert probe.seen
    assert all(probe.seen)


@pytest.mark.parametrize("shape", LEAVES, ids=lambda f: f.__name__)
def test_a_return_or_break_does_not_come_round(shape: object) -> None:
    probe = Probe()
    shape(probe)  # type: ignore[operator]
    assert probe.seen == [False]


def test_each_way_out_of_one_block_is_judged_apart() -> None:
    probe = Probe()
    assert returns_conditionally(probe) == 0
    assert probe.seen == [True, False]


async def test_async_loops_come_round() -> None:
    failing, ending = Probe(), Probe()
    async for tx in failing:
        async with tx:
            raise ValueError
    async for tx in ending:
        async with tx:
            pass
    assert failing.seen == ending.seen == [True, True]


async def test_async_returns_do_not() -> None:
    async def leaves(probe: Probe) -> int | None:
        async for tx in probe:
            async with tx as turn:
                return turn
        return None

    probe = Probe()
    await leaves(probe)
    assert probe.seen == [False]


def test_a_block_of_a_hundred_statements_comes_round() -> None:
    """Jumps too long for one byte are prefixed by EXTENDED_ARG."""
    body = "\n".join(f"            x{i} = {{'a': {i}}}['a'] + {i}" for i in range(300))
    source = f"def long(probe):\n    for tx in probe:\n        with tx:\n{body}\n"
    scope: dict[str, object] = {}
    exec(source, scope)
    probe = Probe()
    scope["long"](probe)  # type: ignore[operator]
    assert probe.seen == [True, True]


def test_a_frame_that_asked_for_nothing_does_not_come_round() -> None:
    for _ in range(1):
        assert not comes_round(sys._getframe(), None)
