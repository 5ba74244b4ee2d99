"""Whether the loop over the attempts of something is certain to ask for another one.

A `with` block that is left by `return` or `break` calls `__exit__` as if it had ended well. To
say "run it again" there would lose a transaction without a word, since nobody would ask the
iterator for another attempt; and to swallow an error with a `break` behind the block would lose
the error. So before an attempt is promised, the caller's bytecode is followed from the `with`
block on: every way must lead to the very instruction that asked for this attempt.
"""

import dis
import inspect
from bisect import bisect_right
from types import CodeType, FrameType
from typing import NamedTuple

_ENDS = frozenset({"RAISE_VARARGS", "RERAISE"})
_JUMPS_ALWAYS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})
_JUMP_OPCODES = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class LoopHead(NamedTuple):
    """The instruction that asks for attempts, and the frame that it belongs to.

    The frame is known by its id: it lives as long as its loop, and a reference to it would be a
    cycle through its local variables.
    """

    frame: int
    offset: int


def loop_head(frame: FrameType) -> LoopHead:
    """Return where `frame` stands; called while it asks for the next attempt."""
    return LoopHead(id(frame), frame.f_lasti)


def comes_round(frame: FrameType, head: LoopHead | None) -> bool:
    """Return whether every way on from where `frame` stands leads to `head`."""
    if head is None or head.frame != id(frame):
        return False
    return _all_ways_lead(frame.f_code, frame.f_lasti, head.offset)


def is_generator(frame: FrameType) -> bool:
    """Return whether `frame` is one whose consumer would see twice what it yields."""
    return bool(frame.f_code.co_flags & _GENERATORS)


def _all_ways_lead(code: CodeType, start: int, head: int) -> bool:
    instructions = list(dis.get_instructions(code))
    index_at = {instruction.offset: i for i, instruction in enumerate(instructions)}
    offsets = list(index_at)
    here = bisect_right(offsets, start) - 1  # f_lasti may point into an inline cache
    goal = bisect_right(offsets, head) - 1
    ways, seen = _next(instructions[here], here, index_at), {goal}
    while ways:
        i = ways.pop()
        if i in seen or instructions[i].opname in _ENDS:
            continue
        if _leaves(instructions[i].opname):
            return False
        seen.add(i)
        ways += _next(instructions[i], i, index_at)
    return True


def _leaves(opname: str) -> bool:
    """Return whether the frame may be left here.

    Another `async for` counts: it ends by an exception, whose way is not among the jumps.
    """
    return opname.startswith("RETURN") or opname == "GET_ANEXT"


def _next(instruction: dis.Instruction, i: int, index_at: dict[int, int]) -> list[int]:
    ways = [] if instruction.opname in _JUMPS_ALWAYS else [i + 1]
    if instruction.opcode in _JUMP_OPCODES:
        ways.append(index_at[instruction.argval])
    return ways
