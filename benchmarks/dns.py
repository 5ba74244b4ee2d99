"""What a cached lookup costs beside dnspython's: python -P benchmarks/dns.py

-P keeps this file from being taken for the package that it is named after. Each line is the best of
several rounds; the rounds of all contestants alternate. A DNS server of
its own is started.
"""

import time
from collections.abc import Callable

import dns.resolver

from datakit import Resolver
from datakit.testing import DnsServer

ROUNDS = 15
CALLS = 2000
NAME = "db.shop.internal"


def timed(work: Callable[[], object]) -> float:
    """Return the microseconds of one call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    return (time.perf_counter() - start) / CALLS * 1e6


def dnspython(server: DnsServer, cache: dns.resolver.CacheBase) -> Callable[[], object]:
    stub = dns.resolver.Resolver(configure=False)
    stub.nameservers = [server.address]
    stub.port = server.port
    stub.cache = cache
    return lambda: stub.resolve(NAME, "A")


def main() -> None:
    with DnsServer() as server:
        server.set(NAME, "A", ["192.0.2.1"], ttl=300)
        resolver = Resolver([server.endpoint])
        contestants: dict[str, Callable[[], object]] = {
            "datakit lookup": lambda: resolver.lookup(NAME, "A"),
            "datakit is_current": lambda: resolver.is_current(NAME, "192.0.2.1"),
            "dnspython LRUCache": dnspython(server, dns.resolver.LRUCache()),
            "dnspython Cache": dnspython(server, dns.resolver.Cache()),
        }
        best = dict.fromkeys(contestants, float("inf"))
        for _ in range(ROUNDS):
            for name, work in contestants.items():
                best[name] = min(best[name], timed(work))
    own = best["datakit lookup"]
    print("\na cached lookup")
    for name, figure in best.items():
        print(f"  {name:<44} {figure:9.2f} µs   {figure / own:6.2f} x datakit")


if __name__ == "__main__":
    main()
