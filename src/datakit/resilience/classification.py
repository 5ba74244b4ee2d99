"""What a failure of a call that datakit knows nothing of means for trying again. Pure."""

from typing import Final

from datakit.errors import (
    CommitUnknownError,
    DatakitError,
    OverloadError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.resilience.retry_after import retry_after
from datakit.resilience.verdict import Verdict

BUGS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    FileExistsError,
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    LookupError,
    MemoryError,
    NameError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    RecursionError,
    StopAsyncIteration,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Built-in exceptions that come of the code or its input, and come again."""

_OWN: Final = {
    OverloadError: Verdict.OVERLOAD,
    CommitUnknownError: Verdict.COMMIT_UNKNOWN,
    ResolveTimeoutError: Verdict.NOT_SENT,
    ServerFailureError: Verdict.NOT_SENT,
}


def classify_by_type(exc: BaseException) -> Verdict:
    """Return what `exc` means where nothing but its type is known.

    A refused connection is NOT_SENT; a bug or a wrong value is FATAL, and so is an open breaker,
    since it exists to fail fast; a full bulkhead or a server that asks for time (`retry_after`)
    is OVERLOAD; any other failure is DISCONNECT: the call may have had its effect. Whoever puts a
    policy around a call says by that, that running it again is safe.
    """
    if isinstance(exc, DatakitError):
        return _OWN.get(type(exc), Verdict.FATAL)
    if not isinstance(exc, Exception) or isinstance(exc, BUGS):
        return Verdict.FATAL
    if isinstance(exc, ConnectionRefusedError):
        return Verdict.NOT_SENT
    if retry_after(exc, wall=0.0) is not None:
        return Verdict.OVERLOAD
    return Verdict.DISCONNECT
