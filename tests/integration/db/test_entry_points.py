"""Every way to an engine of datakit, through the frameworks that make their own."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import httpx
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from fastapi import Depends, FastAPI
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, NullPool, QueuePool, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from datakit import AsyncResolver, Resolver, attach, deadline
from datakit.db import describe
from datakit.db.pool import AsyncLookingPool, LookingPool
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.testing import DnsServer, MariadbServer, PostgresCluster, PostgresNode

NAME = "db.shop.internal"
SLEEP = text("SELECT pg_sleep(20)")
ADDRESS = text("SELECT host(inet_server_addr())")
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None

def upgrade():
    op.create_table("migrated", sa.Column("id", sa.Integer, primary_key=True))

def downgrade():
    op.drop_table("migrated")
"""


def plugged(url: str, **options: str) -> str:
    said = "".join(f"&datakit_{name}={value}" for name, value in options.items())
    return f"{url}{'&' if '?' in url else '?'}plugin=datakit{said}"


def assert_deadline_ends_a_statement(engine: Engine) -> None:
    """As only datakit's connections do."""
    began = time.monotonic()
    with deadline(0.3), pytest.raises(DeadlineExceededError), engine.connect() as conn:
        conn.execute(SLEEP)
    assert time.monotonic() - began < 5


async def assert_deadline_ends_an_awaited_statement(engine: AsyncEngine) -> None:
    began = time.monotonic()
    with deadline(0.3), pytest.raises(DeadlineExceededError):
        async with engine.connect() as conn:
            await conn.execute(SLEEP)
    assert time.monotonic() - began < 5


def test_create_engine_of_sqlalchemy_takes_the_plugin(postgres: PostgresNode) -> None:
    engine = sqlalchemy.create_engine(plugged(postgres.url(), endpoint="reader"))
    assert_deadline_ends_a_statement(engine)
    assert isinstance(engine.pool, LookingPool)
    assert not engine.url.query
    assert "endpoint: reader" in describe(engine)
    engine.dispose()


async def test_create_async_engine_of_sqlalchemy_takes_the_plugin(postgres: PostgresNode) -> None:
    engine = create_async_engine(plugged(postgres.url()))
    await assert_deadline_ends_an_awaited_statement(engine)
    assert isinstance(engine.pool, AsyncLookingPool)
    await engine.dispose()


def test_engine_from_config_takes_the_plugin_and_its_keywords_win(postgres: PostgresNode) -> None:
    settings = {"db.url": plugged(postgres.url()), "db.pool_size": "3", "db.pool_recycle": "60"}
    engine = sqlalchemy.engine_from_config(settings, prefix="db.")
    assert_deadline_ends_a_statement(engine)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.size() == 3
    assert "recycled after 60 s" in describe(engine)
    engine.dispose()


def test_a_pool_of_the_callers_own_stays(postgres: PostgresNode) -> None:
    engine = sqlalchemy.create_engine(plugged(postgres.url()), poolclass=NullPool)
    assert_deadline_ends_a_statement(engine)
    assert type(engine.pool) is NullPool


def test_the_plugin_serves_mariadb() -> None:
    with MariadbServer() as server:
        engine = sqlalchemy.create_engine(plugged(server.url()))
        with deadline(0.5), pytest.raises(DeadlineExceededError), engine.connect() as conn:
            conn.execute(text("SELECT sleep(20)"))
        engine.dispose()


def test_the_plugins_tls_holds() -> None:
    encrypted = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    with PostgresCluster(standbys=0, tls=True) as cluster:
        authorities = str(cluster.primary.certificate)
        url = plugged(cluster.url(), tls="verify-ca", tls_ca=authorities)
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as conn:
            assert conn.scalar(encrypted)
        engine.dispose()


def test_a_server_without_the_plugins_tls_is_refused(postgres: PostgresNode) -> None:
    engine = sqlalchemy.create_engine(plugged(postgres.url(), tls="verify-full"))
    with pytest.raises(OperationalError, match="server does not support SSL"):
        engine.connect()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("datakit_nonsense=1", "datakit_nonsense= in a database URL"),
        ("datakit_auth=password", "only 'iam'"),
        ("datakit_auth=iam&datakit_tls=off", "needs verified TLS"),
        ("datakit_auth=iam&datakit_tls=verify-ca", "needs verified TLS"),
        ("datakit_tls=maybe", "verify-full, verify-ca, off"),
        ("datakit_tls_ca=/nowhere.pem", "no such file"),
        ("datakit_endpoint=writer", "endpoint='writer'"),
        ("datakit_endpoint=proxy&datakit_endpoint=reader", "more than once"),
    ],
)
def test_an_option_that_cannot_work_is_named(query: str, message: str) -> None:
    url = f"postgresql+psycopg://app:s3cret@db.internal/shop?plugin=datakit&{query}"
    with pytest.raises(ConfigError, match=message) as caught:
        sqlalchemy.create_engine(url)
    assert "s3cret" not in str(caught.value)


def test_the_plugin_shows_no_password() -> None:
    url = plugged("postgresql+psycopg://app:s3cret@db.internal/shop", auth="iam")
    engine = sqlalchemy.create_engine(url)
    shown = f"{engine!r} {engine.url!r} {describe(engine)} {tuple(engine.url)!r}"
    assert "s3cret" not in shown
    assert "IamAuth" in shown


def test_attached_engine_finds_its_host_through_the_resolver(
    postgres: PostgresNode, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", [postgres.address])
    engine = sqlalchemy.create_engine(postgres.url().replace(postgres.address, NAME))
    assert attach(engine, resolver=Resolver([dns_server.endpoint])) is engine
    with engine.connect() as conn:
        assert conn.scalar(ADDRESS) == postgres.address
    engine.dispose()


async def test_attached_async_engine_finds_its_host_through_the_resolver(
    postgres: PostgresNode, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", [postgres.address])
    engine = create_async_engine(postgres.url().replace(postgres.address, NAME))
    assert attach(engine, resolver=AsyncResolver([dns_server.endpoint])) is engine
    async with engine.connect() as conn:
        assert await conn.scalar(ADDRESS) == postgres.address
    await engine.dispose()


@pytest.mark.parametrize("create", [sqlalchemy.create_engine, create_async_engine])
def test_attaching_twice_is_refused(create: type[Engine]) -> None:
    url = "postgresql+psycopg://app@db.internal/shop"
    engine = attach(create(url))  # type: ignore[call-arg, arg-type]
    with pytest.raises(ConfigError, match=r"attached to this engine of db\.internal already"):
        attach(engine)
    with pytest.raises(ConfigError, match="already"):
        attach(create(plugged(url)))  # type: ignore[call-arg, arg-type]


def test_attach_refuses_tokens_without_verified_tls() -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://app@db.internal/shop?sslmode=require")
    with pytest.raises(ConfigError, match="needs verified TLS"):
        attach(engine, auth="iam")


def test_alembic_upgrades_with_the_env_py_that_it_writes(
    postgres: PostgresNode, tmp_path: Path
) -> None:
    config = Config(tmp_path / "alembic.ini")
    command.init(config, str(tmp_path / "migrations"))
    (tmp_path / "migrations/versions/1_migrated.py").write_text(MIGRATION)
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option("sqlalchemy.url", plugged(postgres.url()))
    command.upgrade(config, "head")
    engine = sqlalchemy.create_engine(postgres.url())
    try:
        assert sqlalchemy.inspect(engine).has_table("migrated")
    finally:
        command.downgrade(config, "base")
        with engine.begin() as conn:
            conn.execute(text("DROP TABLE alembic_version"))
        engine.dispose()


def test_flask_sqlalchemy_connects_through_datakit(postgres: PostgresNode) -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = plugged(postgres.url())
    db = SQLAlchemy(app)

    @app.get("/")
    def index() -> dict[str, object]:
        return {"address": db.session.scalar(ADDRESS)}

    assert app.test_client().get("/").json == {"address": postgres.address}
    with app.app_context():
        assert_deadline_ends_a_statement(db.engine)
        db.engine.dispose()


async def test_fastapi_yields_sessions_that_connect_through_datakit(
    postgres: PostgresNode,
) -> None:
    engine = create_async_engine(plugged(postgres.url()))
    sessions = async_sessionmaker(engine)
    app = FastAPI()

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    async def index(session: Annotated[AsyncSession, Depends(session)]) -> dict[str, object]:
        return {"address": await session.scalar(ADDRESS)}

    app.get("/")(index)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/")).json() == {"address": postgres.address}
    await assert_deadline_ends_an_awaited_statement(engine)
    await engine.dispose()
