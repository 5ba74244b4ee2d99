"""The scenes in their order."""

import time
from dataclasses import asdict

from datakit.cli.demo.display import Display
from datakit.cli.demo.failover import fail_over
from datakit.cli.demo.figures import Figures
from datakit.cli.demo.reads import cache_loss, miss_then_hit, record_moves, stampede
from datakit.cli.demo.shop import open_shop

SERVERS = "Starting PostgreSQL 18, its standby, Redis and DNS"


def play(display: Display) -> Figures:
    """Start the servers, play every scene, stop the servers; return what was measured."""
    began = time.monotonic()
    display.begin(SERVERS)
    with open_shop() as shop:
        display.end(SERVERS)
        hit = display.scene("A read misses the cache, then hits it", miss_then_hit, shop)
        crowd = display.scene("200 callers meet one expired key", stampede, shop)
        move = display.scene("The database's A record changes", record_moves, shop)
        failover = display.scene("The primary is killed under write load", fail_over, shop)
        loss = display.scene("Redis is killed under read load", cache_loss, shop)
        stopping = "Stopping the servers"
        display.begin(stopping)
    display.end(stopping)
    elapsed = round(time.monotonic() - began, 1)
    return Figures(hit, crowd, move, failover, loss, elapsed)


def as_plain(figures: Figures) -> dict[str, object]:
    """Return the figures for JSON, without the single calls."""
    plain = asdict(figures)
    del plain["failover"]["calls"]
    return plain
