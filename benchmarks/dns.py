"""What a cached lookup costs beside dnspython's and aiodns': python -P benchmarks/dns.py

-P keeps this file from being taken for the package that it is named after. Each line is the best
of several rounds; the rounds of all contestants alternate. A DNS server of its own is started.
Then the memory of 100,000 cached names, and what a crowd that misses one name sends.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import aiodns
import dns.message
import dns.name
import dns.resolver
import dns.rrset

from datakit import AsyncResolver, Resolver
from datakit.dns.resolution import Found
from datakit.testing import DnsServer

ROUNDS = 15
CALLS = 2000
NAME = "db.shop.internal"
NAMES = 100_000


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


async def awaited(work: Callable[[], Awaitable[object]], calls: int) -> float:
    """Return the microseconds of one awaited call."""
    start = time.perf_counter()
    for _ in range(calls):
        await work()
    return (time.perf_counter() - start) / calls * 1e6


async def tasks(server: DnsServer, best: dict[str, float]) -> None:
    """Measure the asyncio contestants. aiodns asks its server each time: it has no cache."""
    resolver = AsyncResolver([server.endpoint])
    theirs = aiodns.DNSResolver(
        nameservers=[server.address], udp_port=server.port, tcp_port=server.port
    )
    contestants: dict[str, tuple[Callable[[], Awaitable[object]], int]] = {
        "datakit AsyncResolver.lookup": (lambda: resolver.lookup(NAME), CALLS),
        "aiodns query (a query each)": (lambda: theirs.query_dns(NAME, "A"), 200),
    }
    for _ in range(ROUNDS):
        for name, (work, calls) in contestants.items():
            best[name] = min(best.get(name, float("inf")), await awaited(work, calls))
    await theirs.close()


def memory() -> None:
    """Print the bytes of a cached name with one address."""
    gc.collect()
    tracemalloc.start()
    resolver = Resolver(["127.0.0.1"], cache_size=NAMES)
    before = tracemalloc.get_traced_memory()[0]
    for n in range(NAMES):
        found = Found((f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",), (), 300.0, "127.0.0.1:53")
        resolver._kept.keep((f"host-{n}.shop.internal", "A"), found, "network")
    ours = (tracemalloc.get_traced_memory()[0] - before) / NAMES
    del resolver
    gc.collect()
    cache = dns.resolver.LRUCache(NAMES)
    before = tracemalloc.get_traced_memory()[0]
    for n in range(NAMES // 10):
        name = dns.name.from_text(f"host-{n}.shop.internal")
        query = dns.message.make_query(name, "A")
        response = dns.message.make_response(query)
        assert isinstance(response, dns.message.QueryMessage)
        response.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "10.0.0.1"))
        answer = dns.resolver.Answer(
            name, query.question[0].rdtype, query.question[0].rdclass, response, "127.0.0.1", 53
        )
        cache.put((name, query.question[0].rdtype, query.question[0].rdclass), answer)
    theirs = (tracemalloc.get_traced_memory()[0] - before) / (NAMES // 10)
    tracemalloc.stop()
    print(f"\nmemory of a cached name\n  {'datakit, at 100,000 names':<44} {ours:9.0f} bytes")
    print(f"  {'dnspython LRUCache, at 10,000':<44} {theirs:9.0f} bytes")


def crowds(server: DnsServer) -> None:
    """Print the queries that 100 threads and 1,000 tasks send for one name."""
    server.fail("late", seconds=0.1)
    stub = dns.resolver.Resolver(configure=False)
    stub.nameservers, stub.port = [server.address], server.port
    stub.cache = dns.resolver.LRUCache()
    print("\nqueries for one cold name")
    for title, lookup in (
        ("datakit, 100 threads", Resolver([server.endpoint]).lookup),
        ("dnspython LRUCache, 100 threads", stub.resolve),
    ):
        server.clear_queries()
        with ThreadPoolExecutor(100) as pool:
            list(pool.map(lookup, [NAME] * 100))
        print(f"  {title:<44} {server.queries_for(NAME):9d}")

    async def crowd() -> None:
        resolver = AsyncResolver([server.endpoint])
        await asyncio.gather(*(resolver.lookup(NAME) for _ in range(1000)))

    server.clear_queries()
    asyncio.run(crowd())
    print(f"  {'datakit, 1,000 tasks':<44} {server.queries_for(NAME):9d}")


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
        asyncio.run(tasks(server, best))
        own = best["datakit lookup"]
        print("\na cached lookup")
        for name, figure in best.items():
            print(f"  {name:<44} {figure:9.2f} µs   {figure / own:6.2f} x datakit")
        crowds(server)
    memory()


if __name__ == "__main__":
    main()
