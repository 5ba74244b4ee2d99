"""Text that is not shown."""


class Masked(str):
    """A password for those who show what they hold: tracebacks with variables, debuggers, logs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def without_frames(error: BaseException) -> BaseException:
    """Return `error` without the frames it came through, whose variables may hold a password."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
