"""One of many processes that want one key: crowd.py URL COUNTER-URL NAMESPACE SIDE

Prints "ready", waits for a line, lets 50 callers ask at once, and prints what they got. SIDE is
"threads", "tasks" or "dies": then it prints "loading" and loads for ever.
"""

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import redis

from datakit.cache import Cache, policy

CALLERS = 50


def main(url: str, counter_url: str, namespace: str, side: str) -> None:
    cache = Cache(url, namespace=namespace, timeout=10, connect_timeout=10)
    counter = redis.Redis.from_url(counter_url)
    policy.LEASE = 2.0 if side == "dies" else policy.LEASE  # type: ignore[misc]

    def load(n: int) -> int:
        counter.incr(f"{namespace}:loads")
        if side == "dies":
            print("loading", flush=True)
            time.sleep(60)
        time.sleep(0.3)
        return n * n

    @cache.cached(ttl=60, key="square:{n}")
    def square(n: int) -> int:
        return load(n)

    @cache.cached(ttl=60, key="square:{n}")
    async def asquare(n: int) -> int:
        return await asyncio.to_thread(load, n)

    def in_threads() -> list[int]:
        barrier = Barrier(CALLERS)

        def call(_: int) -> int:
            barrier.wait()
            return square(7)

        with ThreadPoolExecutor(CALLERS) as pool:
            return list(pool.map(call, range(CALLERS)))

    async def in_tasks() -> list[int]:
        found = await asyncio.gather(*(asquare(7) for _ in range(CALLERS)))
        await cache.aio.close()
        return found

    print("ready", flush=True)
    sys.stdin.readline()
    print(asyncio.run(in_tasks()) if side == "tasks" else in_threads(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
