"""A forked child goes on by itself: nothing that its parent's threads do is waited for."""

import os
import signal
import threading
import time
import uuid
from typing import Any

import pytest
from tests.integration.cache.conftest import SyncSide

from datakit.cache import Cache
from datakit.cache.backends.opening import Backends
from datakit.testing import FakeClock


@pytest.mark.parametrize("refresh_threads", [0, 1])
@pytest.mark.parametrize("during_a_load", [False, True], ids=["at rest", "during a load"])
def test_a_forked_child_loads_anew_what_is_stale(
    url: str, product: Any, clock: FakeClock, refresh_threads: int, during_a_load: bool
) -> None:
    """Also what its parent was loading anew, and in threads of its own."""
    namespace = uuid.uuid4().hex
    cache = Cache(url, namespace=namespace, timeout=5, clock=clock, refresh_threads=refresh_threads)
    parent, calls = os.getpid(), [0]
    loading, go_on = threading.Event(), threading.Event()

    def load(product_id: int) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            loading.set()
            assert go_on.wait(20) if during_a_load and os.getpid() == parent else True
        return product(product_id, f"{os.getpid()} {calls[0]}", [])

    side = SyncSide(cache)
    get_product = side.function(load, ttl=60, stale_while_revalidate=1000)
    get_product(7)
    clock.advance(70)
    renewing = threading.Thread(target=get_product, args=(7,))
    renewing.start()
    assert loading.wait(20)
    if not during_a_load:
        renewing.join()
        side.drain()
    child = os.fork()
    if child == 0:
        clock.advance(70)
        until = time.monotonic() + 10
        while not get_product(7).name.startswith(f"{os.getpid()} "):
            if time.monotonic() > until:
                os._exit(1)
            time.sleep(0.05)
            clock.advance(2)
        os._exit(0)
    go_on.set()
    assert os.waitpid(child, 0)[1] == 0
    renewing.join()
    cache.close()


def test_a_child_forked_while_the_driver_is_imported_imports_it_itself(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, importing, go_on = os.getpid(), threading.Event(), threading.Event()
    remote = Backends._remote

    def slowly(self: Backends, *parts: Any) -> Any:
        if os.getpid() == parent:
            importing.set()
            assert go_on.wait(20)
        return remote(self, *parts)

    monkeypatch.setattr(Backends, "_remote", slowly)
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)
    opening = threading.Thread(target=cache.get, args=("k",))
    opening.start()
    assert url.startswith("memory") or importing.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that waits for ever
        cache.set("k", 1, ttl=60)
        os._exit(0 if cache.get("k") == 1 else 1)
    go_on.set()
    assert os.waitpid(child, 0)[1] == 0
    opening.join()
    cache.close()


def test_a_child_forked_amid_invalidations_invalidates(url: str) -> None:
    """It waits for no lock that a thread of its parent held, of threads or of tasks."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)
    ended = threading.Event()

    def invalidate() -> None:
        while not ended.is_set():
            cache.delete("k")

    threads = [threading.Thread(target=invalidate) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # which kills
                cache.delete("k")
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    cache.close()
