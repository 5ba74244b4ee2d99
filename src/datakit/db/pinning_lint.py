"""Warns, once for each cause, of statements that make RDS Proxy pin their session.

The listeners sit on the dialect's events, which see what is sent at last. Any listener on
`before_cursor_execute` costs each statement of the engine 5 us in SQLAlchemy, these cost 1 us.
"""

import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect, ExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor

from datakit import events
from datakit._bounded import BoundedDict
from datakit.db import pinning
from datakit.db.pinning import PinningCause, PinningWarning
from datakit.db.sync_engine import sync_engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

MAX_SEEN = 1024
"""Statements remembered, by their hash, so that a repeated one is not read again."""

_linted: WeakSet[Dialect] = WeakSet()


def lint_pinning(engine: "Engine | AsyncEngine") -> None:
    """Warn from now on when a statement on `engine` makes RDS Proxy pin its session.

    A `PinningWarning` and an event `PinningFound`, once for each cause and engine, tell the place
    in the caller's code. Call it again, and nothing changes.

    Raises:
        ConfigError: RDS Proxy does not speak the engine's dialect.
    """
    dialect = engine.dialect  # an engine has one of its own
    if dialect in _linted:
        return
    linter = _Linter(dialect.name)
    target = sync_engine(engine)
    event.listen(target, "do_execute", linter.look)
    event.listen(target, "do_executemany", linter.look)
    event.listen(target, "do_execute_no_params", linter.look_without_parameters)
    _linted.add(dialect)


class _Linter:
    """Looks at the statements of one engine."""

    def __init__(self, dialect: str) -> None:
        pinning.causes("", dialect)  # refuses a dialect that it does not know
        self._dialect = dialect
        self._seen: BoundedDict[int, bool] = BoundedDict(MAX_SEEN)
        self._found: dict[str, object] = {}

    def look(
        self, cursor: DBAPICursor, statement: str, parameters: Any, context: ExecutionContext | None
    ) -> None:
        """Warn of what is new in `statement`."""
        streamed = getattr(context, "_is_server_side", False)
        key = hash((statement, streamed))
        if self._seen.get(key):
            return
        for cause in self._causes(statement, streamed):
            if self._is_new(cause):
                _tell(cause)
        self._seen[key] = True

    def look_without_parameters(
        self, cursor: DBAPICursor, statement: str, context: ExecutionContext | None
    ) -> None:
        """Warn of what is new in `statement`."""
        self.look(cursor, statement, None, context)

    def _causes(self, statement: str, streamed: bool) -> tuple[PinningCause, ...]:
        """Return what pins; the driver declares a cursor for a result that is streamed."""
        causes = pinning.causes(statement, self._dialect)
        if streamed and self._dialect == "postgresql" and pinning.CURSOR not in causes:
            return (*causes, pinning.CURSOR)
        return causes

    def _is_new(self, cause: PinningCause) -> bool:
        mine = object()  # of several threads one finds its own
        return self._found.setdefault(cause.name, mine) is mine


def _tell(cause: PinningCause) -> None:
    from datakit.db.call_site import call_site  # not needed before the first finding

    site = call_site()
    events.emit(events.PinningFound, cause.name, str(site))
    warning = PinningWarning(cause, str(site))
    warnings.warn_explicit(warning, PinningWarning, site.filename, site.lineno, site.module)
