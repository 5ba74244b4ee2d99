"""A bank whose books show what a failover lost, ran twice or tore apart.

Each lane of writers has accounts of its own. A payment moves money between two of them and leaves
a row with its number, which no constraint keeps unique: a body that ran twice is to be seen.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
)

from datakit.db import exactly_once

OPENING_BALANCE = 1_000
_NUMBERS = 1_000_000

_metadata = MetaData()
_accounts = Table(
    "accounts",
    _metadata,
    Column("lane", String(40), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("balance", BigInteger, nullable=False),
)
_payments = Table(
    "payments",
    _metadata,
    Column("lane", String(40), nullable=False),
    Column("id", BigInteger, nullable=False),
    Index("payments_lane", "lane"),
)
_orders = Table(
    "orders",
    _metadata,
    Column("lane", String(40), primary_key=True),
    Column("id", BigInteger, primary_key=True),
)
_probes = Table("probes", _metadata, Column("id", Integer))

MOVE = "UPDATE accounts SET balance = balance + {change} WHERE lane = '{lane}' AND id = {account}"
RECORD = "INSERT INTO payments (lane, id) VALUES ('{lane}', {id})"
ORDER = "INSERT INTO orders (lane, id) VALUES ('{lane}', {id}) ON CONFLICT DO NOTHING"
PROBE = "INSERT INTO probes VALUES (1)"


class Payment(NamedTuple):
    """A transfer with a number that is its own in its lane."""

    id: int
    source: int
    target: int
    amount: int

    def statements(self, lane: str) -> Iterator[str]:
        """Yield what it does. The lower account comes first, so that no two payments deadlock."""
        changes = {self.source: -self.amount, self.target: self.amount}
        for account in sorted(changes):
            yield MOVE.format(lane=lane, account=account, change=changes[account])
        yield RECORD.format(lane=lane, id=self.id)


class Books(NamedTuple):
    """What is in the database of one lane: how often each payment, and all its money."""

    payments: Counter[int]
    total: int


def payments(writer: int, writers: int, rng: Random) -> Iterator[Payment]:
    """Yield the payments of one of `writers` writers, each from its own account to another."""
    for number in range(_NUMBERS):
        target = (writer + rng.randrange(1, writers)) % writers
        yield Payment(writer * _NUMBERS + number, writer, target, rng.randrange(1, 100))


def pay(connection: Connection, lane: str, payment: Payment) -> None:
    """Do a payment in the open transaction."""
    for statement in payment.statements(lane):
        connection.exec_driver_sql(statement)


def pay_once(connection: Connection, lane: str, payment: Payment) -> None:
    """Do a payment unless that was done before: a body that may run again."""
    if connection.exec_driver_sql(ORDER.format(lane=lane, id=payment.id)).rowcount:
        pay(connection, lane, payment)


def open_bank(engine: Engine, accounts: Mapping[str, int]) -> None:
    """Make the tables anew. accounts: how many each lane has."""
    exactly_once.create_table(engine)
    with engine.begin() as connection:
        _metadata.drop_all(connection)
        _metadata.create_all(connection)
        for lane, count in accounts.items():
            rows = [{"lane": lane, "id": n, "balance": OPENING_BALANCE} for n in range(count)]
            connection.execute(insert(_accounts), rows)


def read_books(engine: Engine, lane: str) -> Books:
    """Return the books of one lane."""
    with engine.connect() as connection:
        numbers = connection.scalars(select(_payments.c.id).where(_payments.c.lane == lane))
        total = select(func.sum(_accounts.c.balance)).where(_accounts.c.lane == lane)
        return Books(Counter(numbers), int(connection.scalar(total) or 0))
