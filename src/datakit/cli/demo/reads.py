"""Scenes of reading: a miss and a hit, a stampede, a record that moves, a cache that dies."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import count
from threading import Barrier

from sqlalchemy import text

from datakit.cli.demo.figures import CacheLossFigures, HitFigures, MoveFigures, StampedeFigures
from datakit.cli.demo.shop import MAX_LOADS, PRODUCTS, Product, Shop

STAMPEDE = 200
READERS = 60
LOSS_SECONDS = 2.0
MOVE_TTL = 1
MOVE_TIMEOUT = 30.0


def miss_then_hit(shop: Shop) -> HitFigures:
    """Read product 1234 twice."""

    @shop.cache.cached(ttl="1h")
    def get_product(product_id: int) -> Product:
        return shop.load_product(product_id)

    get_product(1)  # opens the connections, so that the next one shows the query alone
    before = shop.queries
    miss = timed(lambda: get_product(1234))
    hit = timed(lambda: get_product(1234))
    return HitFigures(miss, hit, shop.queries - before)


def stampede(shop: Shop) -> StampedeFigures:
    """Let 200 callers meet one key that has just expired."""

    @shop.cache.cached(ttl=0.5)
    def get_product(product_id: int) -> Product:
        return shop.load_product(product_id)

    get_product(77)
    time.sleep(0.6)
    before = shop.queries
    barrier = Barrier(STAMPEDE)

    def caller(_: int) -> bool:
        barrier.wait()
        return get_product(77).id == 77

    with ThreadPoolExecutor(STAMPEDE) as pool:
        try:
            right = sum(pool.map(caller, range(STAMPEDE)))
        except BaseException:
            barrier.abort()  # Ctrl-C before all have come: the others must not wait for them
            raise
    return StampedeFigures(STAMPEDE, shop.queries - before, STAMPEDE - right)


def record_moves(shop: Shop) -> MoveFigures:
    """Point the name to the standby and back under a warm pool; read all the while."""
    standby = shop.cluster.standbys[0].address
    shop.point_to(shop.cluster.primary.address, ttl=MOVE_TTL)
    engine = shop.new_engine()
    where = text("SELECT host(inet_server_addr())")
    reads = errors = 0
    address = ""
    with engine.connect() as conn:
        conn.execute(where)
    resolved_at = time.monotonic()
    time.sleep(0.3)
    shop.point_to(standby, ttl=MOVE_TTL)
    changed_at = time.monotonic()
    while address != standby:
        if time.monotonic() > changed_at + MOVE_TIMEOUT:
            raise TimeoutError(f"the pool still leads to {address}, not to {standby}")
        try:
            with engine.connect() as conn:
                address = conn.execute(where).scalar_one()
            reads += 1
        except Exception:  # noqa: BLE001 - the figure being shown
            errors += 1
        time.sleep(0.01)
    moved_at = time.monotonic()
    engine.dispose()
    shop.point_to(shop.cluster.primary.address, ttl=1)
    left = MOVE_TTL - (changed_at - resolved_at)
    return MoveFigures(round(left, 3), round(moved_at - changed_at, 3), reads, errors)


def cache_loss(shop: Shop) -> CacheLossFigures:
    """Kill Redis under 60 readers of cached products."""

    @shop.cache.cached(ttl="1h")
    def get_product(product_id: int) -> Product:
        return shop.load_product(product_id)

    ids = count()
    until = time.monotonic() + LOSS_SECONDS
    outcomes: list[bool | None] = []

    def reader(_: int) -> None:
        while time.monotonic() < until:
            product_id = next(ids) % PRODUCTS + 1
            try:
                product = get_product(product_id)
                outcomes.append(product == expected(product_id))
            except Exception:  # noqa: BLE001 - the figure being shown
                outcomes.append(None)

    shop.redis.kill()
    shop.loads.most = 0
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(reader, range(READERS)))
    return CacheLossFigures(
        reads=len(outcomes),
        errors=outcomes.count(None),
        wrong=outcomes.count(False),
        loads_allowed=MAX_LOADS,
        most_loads_at_once=shop.loads.most,
    )


def timed(read: Callable[[], object]) -> float:
    """Return the seconds that `read` takes."""
    began = time.perf_counter()
    read()
    return round(time.perf_counter() - began, 6)


def expected(product_id: int) -> Product:
    """Return the product as it was put into the table."""
    return Product(product_id, f"product {product_id}", Decimal(product_id) / 100)
