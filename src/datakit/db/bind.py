"""What a transaction can be opened on, and the engine behind it."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.util import ScopedRegistry

from datakit.db.routing import opener_for_reading
from datakit.db.sync_engine import sync_engine
from datakit.errors import ConfigError

SyncFactory = sessionmaker[Any] | scoped_session[Any]
AsyncFactory = async_sessionmaker[Any] | async_scoped_session[Any]
SyncBind = Engine | SyncFactory
AsyncBind = AsyncEngine | AsyncFactory


def is_async(bind: object) -> bool:
    """Return whether `bind` opens its transactions with `async with`.

    Raises:
        ConfigError: it opens none.
    """
    if isinstance(bind, AsyncEngine | async_sessionmaker | async_scoped_session):
        return True
    if isinstance(bind, Engine | sessionmaker | scoped_session):
        return False
    given = "a Session" if isinstance(bind, Session) else type(bind).__name__
    raise ConfigError(
        "a transaction needs an Engine, a sessionmaker, a scoped_session or their asyncio forms, "
        f"since every attempt takes a new connection or session; got {given}"
    )


def registry_of(bind: object) -> ScopedRegistry[Any] | None:
    """Return where a scoped session's current one is kept, None for any other bind."""
    return bind.registry if isinstance(bind, scoped_session | async_scoped_session) else None


def opener_of(bind: SyncBind | AsyncBind, read_only: bool) -> Callable[[], Any]:
    """Return what opens a new connection or session on `bind`."""
    if isinstance(bind, Engine | AsyncEngine):
        return bind.connect
    factory: Any = bind
    if isinstance(bind, scoped_session | async_scoped_session):
        factory = bind.session_factory
    return (opener_for_reading(factory) if read_only else None) or factory


def engine_of(bind: SyncBind | AsyncBind) -> object:
    """Return the sync engine behind `bind`; a factory bound to none stands for itself."""
    target: Any = bind
    if isinstance(bind, scoped_session | async_scoped_session):
        target = bind.session_factory
    if isinstance(target, sessionmaker | async_sessionmaker):
        target = target.kw.get("bind") or target
    return sync_engine(target) if isinstance(target, Engine | AsyncEngine) else target
