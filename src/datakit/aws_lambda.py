"""For AWS Lambda: an engine that is warm in the next invocation, and a handler that ends in time.

    engine = lambda_engine("postgresql+psycopg://app@shop.proxy-abc.eu-west-1.rds.amazonaws.com/shop")

    @handler
    def handle(event, context):
        with engine.begin() as conn:
            ...

Nothing here starts a thread, since Lambda freezes them. The garbage collector rests while this
module and the driver are imported: import it before SQLAlchemy, as sorted imports do.
"""

from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from functools import wraps
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutine, isgeneratorfunction
from threading import RLock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from datakit._collector import collector_paused

with collector_paused():
    from sqlalchemy import URL, Engine

    from datakit.auth.masked import Masked
    from datakit.db.engine import create_async_engine, create_engine
    from datakit.errors import ConfigError
    from datakit.resilience import checks, forks
    from datakit.resilience.deadlines import deadline

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy.ext.asyncio import AsyncEngine

P = ParamSpec("P")
T = TypeVar("T")

RESERVE = 0.5
"""Seconds of an invocation kept to answer in."""


def lambda_engine(url: str | URL, auth: Any = "iam", **kwargs: Any) -> Engine:
    """Return this process's engine for `url` and these options; the same one each time.

    It has a pool of one connection, which the next invocation finds again, and looks its host up
    through the operating system first, so that a cold process does not wait for dnspython.
    `auth` and the others are those of `datakit.create_engine`; endpoint: "lambda" unless given. A
    function, a resolver or a retry policy is the same option only as the same object.

    With SnapStart its connections are closed before the snapshot, and a restored process begins
    anew, as a forked one does.

    Raises: as `datakit.create_engine`.
    """
    url = _masked(url)
    return cast("Engine", _engines.get(create_engine, url, {"auth": auth, **kwargs}))


def lambda_async_engine(url: str | URL, auth: Any = "iam", **kwargs: Any) -> "AsyncEngine":
    """Return this process's asyncio engine for `url`; otherwise as `lambda_engine`.

    Its connections belong to an event loop: use it under `handler`, which keeps one loop from
    invocation to invocation, not under `asyncio.run`.
    """
    url = _masked(url)
    return cast("AsyncEngine", _engines.get(create_async_engine, url, {"auth": auth, **kwargs}))


@overload
def handler(function: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, T]: ...
@overload
def handler(function: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def handler(*, reserve: float = RESERVE) -> "_Decorator": ...
def handler(function: Callable[..., Any] | None = None, /, *, reserve: float = RESERVE) -> Any:
    """Let a Lambda handler's database, cache and DNS calls end before Lambda ends it.

    Around each call stands a `deadline` of what its context has left, less `reserve` seconds. The
    context is the argument that knows its remaining time; None or a mock in a test bounds
    nothing. An `async def` becomes the plain function that Lambda calls: it runs on an event loop
    that is kept, so that an asyncio engine's pool lives on. Where a loop runs already, as in an
    asynchronous test, await its `__wrapped__` instead.

    Raises:
        ConfigError: `reserve` is negative or not a number, or the function is a generator, whose
            body runs when the deadline is gone. From an asynchronous handler: a loop runs already.
    """
    checks.seconds("handler", "reserve", reserve)
    decorator = _Decorator(reserve)
    return decorator if function is None else decorator(function)


class _Decorator:
    """`handler` with its options."""

    def __init__(self, reserve: float) -> None:
        self._reserve = reserve

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]: ...
    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Any]:
        if not callable(function):
            raise ConfigError(f"handler({function!r}): expected a function, or reserve=seconds")
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise ConfigError(f"handler({function!r}): a generator has no answer: return one")
        reserve = self._reserve

        @wraps(function)
        def invoke(*args: Any, **kwargs: Any) -> Any:
            seconds = _remaining((*reversed(args), *kwargs.values()))
            if seconds is None:
                return _result(function(*args, **kwargs))
            with deadline(max(0.0, seconds - reserve)):
                return _result(function(*args, **kwargs))

        return invoke


def _result(outcome: Any) -> Any:
    """Return what a handler returned, or what that comes to: decorators hide an `async def`."""
    return _loop.run(outcome) if iscoroutine(outcome) else outcome


def _remaining(arguments: Iterable[object]) -> float | None:
    """Return the seconds that an invocation has, None when no argument is a context that tells."""
    for each in arguments:
        ask: Callable[[], object] | None = getattr(each, "get_remaining_time_in_millis", None)
        millis = None if ask is None else ask()
        if isinstance(millis, int | float):
            return millis / 1000
    return None


class _KeptLoop:
    """The event loop of this process's asynchronous handlers."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._parents: list[asyncio.Runner] = []
        """Never closed in a forked child: that would unregister the parent's own sockets."""
        forks.renew_after_fork(self)

    def start_anew(self) -> None:
        if self._runner is not None:
            self._parents.append(self._runner)
        self._runner = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        import asyncio

        if asyncio._get_running_loop() is not None:
            work.close()
            raise ConfigError(
                "handler: an event loop runs here already, which a plain call would block; await "
                "the handler's __wrapped__(event, context) instead"
            )
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work, context=copy_context())

    def has_run(self) -> bool:
        return self._runner is not None


class _Engines:
    """The engines of this process, by what they were asked for with."""

    def __init__(self) -> None:
        self._kept: list[tuple[tuple[object, ...], Engine | AsyncEngine]] = []
        self._lock = RLock()
        self._hooks_are_set = False
        forks.renew_after_fork(self)

    def start_anew(self) -> None:
        self._lock = RLock()

    def get(
        self, create: Callable[..., Any], url: str, options: dict[str, Any]
    ) -> "Engine | AsyncEngine":
        asked = (create, url, {name: _as_made(option) for name, option in options.items()})
        with self._lock:
            for known, engine in self._kept:
                if known == asked:
                    return engine
            with collector_paused():  # it imports the driver
                made: Engine | AsyncEngine = create(url, **{"endpoint": "lambda", **options})
            self._kept.append((asked, made))
            self._set_hooks()
            return made

    def before_snapshot(self) -> None:
        """Close every connection: none of them outlives a snapshot."""
        for _, engine in self._kept:
            if isinstance(engine, Engine):
                engine.dispose()
            elif _loop.has_run():
                _loop.run(engine.dispose())
            else:  # whatever loop its connections are of, it is not ours to run
                engine.sync_engine.dispose(close=False)

    def _set_hooks(self) -> None:
        """Have SnapStart's runtime call us, where it is."""
        if self._hooks_are_set:
            return
        self._hooks_are_set = True
        try:
            snapshots = import_module("snapshot_restore_py")
        except ImportError:
            return
        snapshots.register_before_snapshot(self.before_snapshot)
        snapshots.register_after_restore(forks.renew)


def _masked(url: str | URL) -> str:
    """Return the URL as a text that tracebacks with variables do not show."""
    return Masked(url.render_as_string(hide_password=False) if isinstance(url, URL) else url)


def _as_made(option: object) -> object:
    """Return what tells an option from another: what it was made with, or a copy of a dict."""
    if isinstance(option, dict):
        return dict(option)
    return getattr(option, "made_with", option)


_loop = _KeptLoop()
_engines = _Engines()
