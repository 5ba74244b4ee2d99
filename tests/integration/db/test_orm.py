"""Code written for SQLAlchemy's own engine runs on ours unchanged."""

from collections.abc import Callable

import pytest
from sqlalchemy import ForeignKey, String, event, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)

from datakit import create_engine
from datakit.testing import MariadbServer, PostgresNode

from .conftest import Database, Server


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    orders: Mapped[list["Order"]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    amount: Mapped[int]
    customer: Mapped[Customer] = relationship(back_populates="orders")


def fill(session: Session) -> None:
    ada = Customer(id=1, name="Ada", orders=[Order(id=n, amount=10 * n) for n in range(1, 6)])
    session.add_all([ada, Customer(id=2, name="Bob")])


def query(session: Session) -> None:
    total = select(Customer.name, func.sum(Order.amount)).join(Order).group_by(Customer.name)
    assert [(name, int(amount)) for name, amount in session.execute(total)] == [("Ada", 150)]
    loaded = session.scalars(
        select(Customer).options(selectinload(Customer.orders)).order_by(Customer.id)
    ).all()
    assert [len(customer.orders) for customer in loaded] == [5, 0]
    streamed = select(Order.id).order_by(Order.id).execution_options(yield_per=2)
    assert [list(part) for part in session.scalars(streamed).partitions()] == [[1, 2], [3, 4], [5]]


def savepoint(session: Session) -> None:
    with pytest.raises(RuntimeError), session.begin_nested():
        session.add(Order(id=99, customer_id=1, amount=1))
        session.flush()
        raise RuntimeError
    assert session.get(Order, 99) is None
    session.execute(update(Order).where(Order.id == 1).values(amount=11))


async def test_sessions_streams_savepoints_and_events(
    opened: Callable[..., Database], server: Server
) -> None:
    database = opened(server.url())
    plain = database.bind.sync_engine if isinstance(database.bind, AsyncEngine) else database.bind
    seen: list[str] = []

    @event.listens_for(plain, "before_cursor_execute")
    def note(conn: object, cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    await database.transact(lambda conn: Base.metadata.create_all(conn))
    for work in (fill, query, savepoint):

        def within(conn: object, work: Callable[[Session], None] = work) -> None:
            with Session(conn, join_transaction_mode="conditional_savepoint") as session:  # type: ignore[arg-type]
                work(session)
                session.flush()
                session.expunge_all()

        await database.transact(within)
    assert await database.scalar("SELECT amount FROM orders WHERE id = 1") == 11
    assert any("SAVEPOINT" in statement for statement in seen)
    await database.transact(lambda conn: Base.metadata.drop_all(conn))


def test_a_forked_child_leaves_its_parents_connections_alone(server: Server) -> None:
    import os

    engine = create_engine(server.url(), pool_size=1)
    who = {MariadbServer: "SELECT CONNECTION_ID()", PostgresNode: "SELECT pg_backend_pid()"}
    with engine.connect() as conn:
        before = conn.scalar(text(who[type(server)]))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with engine.connect() as conn:
                os.write(write_end, str(conn.scalar(text(who[type(server)]))).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    in_child = int(os.read(read_end, 100))
    with engine.connect() as conn:
        assert conn.scalar(text(who[type(server)])) == before != in_child
    engine.dispose()
