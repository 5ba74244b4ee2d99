"""What datakit adds to SQLAlchemy where nothing fails: python -P benchmarks/engine.py

Each line is the best of several rounds; the rounds of all contestants alternate, so that a busy
machine disturbs them alike. A PostgreSQL of its own is started.
"""

import time
from collections.abc import Callable

import psycopg
import sqlalchemy
from aws_advanced_python_wrapper import AwsWrapperConnection, release_resources
from sqlalchemy import Engine, NullPool

from datakit import Resolver, create_engine
from datakit.testing import DnsServer, PostgresCluster

ROUNDS = 15
NAME = "db.shop.internal"


def timed(work: Callable[[], object], calls: int) -> float:
    """Return the microseconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls * 1e6


def compare(title: str, contestants: dict[str, Callable[[], object]], calls: int) -> None:
    """Run the contestants in turns and print their best rounds beside the first one's."""
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(ROUNDS):
        for name, work in contestants.items():
            best[name] = min(best[name], timed(work, calls))
    own = next(iter(best.values()))
    print(f"\n{title}")
    for name, figure in best.items():
        print(f"  {name:<44} {figure:9.2f} µs   {figure / own:6.2f} x datakit")


def checkout(engine: Engine) -> Callable[[], None]:
    def work() -> None:
        engine.connect().close()

    return work


def new_connections(cluster: PostgresCluster, dns: DnsServer) -> dict[str, Callable[[], object]]:
    """Return what connects and closes, each in its own way; the first work is datakit's."""
    node = cluster.primary
    named = cluster.url().replace(node.address, NAME)
    conninfo = cluster.url().replace("+psycopg", "")
    ours = create_engine(named, resolver=Resolver([dns.endpoint]), poolclass=NullPool)
    plain = sqlalchemy.create_engine(cluster.url(), poolclass=NullPool)

    def wrapped(plugins: str) -> Callable[[], object]:
        return lambda: AwsWrapperConnection.connect(
            psycopg.Connection.connect, conninfo, plugins=plugins
        ).close()

    return {
        "datakit, by name": checkout(ours),
        "SQLAlchemy, by address": checkout(plain),
        "psycopg alone, by address": lambda: psycopg.connect(conninfo).close(),
        "AWS wrapper, no plugins, by address": wrapped(""),
        "AWS wrapper, failover, by address": wrapped("failover"),
    }


def main() -> None:
    with PostgresCluster(standbys=0) as cluster, DnsServer() as dns:
        dns.set(NAME, "A", [cluster.primary.address], ttl=300)
        named = cluster.url().replace(cluster.primary.address, NAME)
        ours = create_engine(named, resolver=Resolver([dns.endpoint]))
        plain = sqlalchemy.create_engine(cluster.url())
        pinged = sqlalchemy.create_engine(cluster.url(), pool_pre_ping=True)
        compare(
            "pool checkout and checkin, warm",
            {
                "datakit": checkout(ours),
                "SQLAlchemy": checkout(plain),
                "SQLAlchemy with pre_ping": checkout(pinged),
            },
            400,
        )
        compare("a new connection", new_connections(cluster, dns), 10)
        for engine in (ours, plain, pinged):
            engine.dispose()
    release_resources()


if __name__ == "__main__":
    main()
