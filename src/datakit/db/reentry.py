"""Whether the loop around a `with` block is certain to come round again.

A `with` block that is left by `return` or `break` calls `__exit__` as if it had ended well. To
say "run it again" there would lose the transaction without a word, since nobody would ask the
iterator for another attempt. So before an attempt is promised, the caller's bytecode is
followed from the `with` block on: every way must lead to the head of a loop.
"""

import dis
from bisect import bisect_right
from types import CodeType, FrameType

_LOOP_HEADS = frozenset({"FOR_ITER", "GET_ANEXT"})
_ENDS = frozenset({"RAISE_VARARGS", "RERAISE"})
_JUMPS_ALWAYS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})
_JUMP_OPCODES = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)


def comes_round(frame: FrameType | None) -> bool:
    """Return whether every way on from where `frame` stands leads to the head of a loop."""
    return frame is not None and _all_ways_loop(frame.f_code, frame.f_lasti)


def _all_ways_loop(code: CodeType, offset: int) -> bool:
    instructions = list(dis.get_instructions(code))
    index_at = {instruction.offset: i for i, instruction in enumerate(instructions)}
    here = bisect_right(list(index_at), offset) - 1  # f_lasti may point into an inline cache
    ways, seen = _next(instructions[here], here, index_at), set[int]()
    while ways:
        i = ways.pop()
        if i in seen:
            continue
        seen.add(i)
        instruction = instructions[i]
        if instruction.opname in _LOOP_HEADS or instruction.opname in _ENDS:
            continue
        if instruction.opname.startswith("RETURN"):
            return False
        ways += _next(instruction, i, index_at)
    return True


def _next(instruction: dis.Instruction, i: int, index_at: dict[int, int]) -> list[int]:
    ways = [] if instruction.opname in _JUMPS_ALWAYS else [i + 1]
    if instruction.opcode in _JUMP_OPCODES:
        ways.append(index_at[instruction.argval])
    return ways
