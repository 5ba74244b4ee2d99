"""What a transaction can be opened on, and the engine behind it."""

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from datakit.errors import ConfigError

SyncBind = Engine | sessionmaker[Any]
AsyncBind = AsyncEngine | async_sessionmaker[Any]


def is_async(bind: object) -> bool:
    """Return whether `bind` opens its transactions with `async with`.

    Raises:
        ConfigError: it opens none.
    """
    if isinstance(bind, AsyncEngine | async_sessionmaker):
        return True
    if isinstance(bind, Engine | sessionmaker):
        return False
    given = "a Session" if isinstance(bind, Session) else type(bind).__name__
    raise ConfigError(
        f"a transaction needs an Engine, AsyncEngine, sessionmaker or async_sessionmaker, "
        f"since every attempt takes a new connection or session; got {given}"
    )


def engine_of(bind: SyncBind | AsyncBind) -> object:
    """Return the sync engine behind `bind`; a factory bound to none stands for itself."""
    target = bind if isinstance(bind, Engine | AsyncEngine) else bind.kw.get("bind")
    return target.sync_engine if isinstance(target, AsyncEngine) else target or bind
