"""The one kind of engine that events and options hang on."""

from typing import TYPE_CHECKING

from sqlalchemy import Engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


def sync_engine(engine: "Engine | AsyncEngine") -> Engine:
    """Return the Engine behind an AsyncEngine, or one with execution options; an Engine itself.

    Without importing SQLAlchemy's asyncio half, which brings the ORM: 60 ms of a cold process.
    """
    plain = engine if isinstance(engine, Engine) else engine.sync_engine
    return getattr(plain, "_proxied", plain)
