"""An event loop in a thread of its own, for servers that live beside synchronous tests."""

import asyncio
from collections.abc import Coroutine
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

_CALL_TIMEOUT = 10.0


class LoopThread:
    """One daemon thread that runs one event loop, from now until `close`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what `coroutine` returns, run in the loop's thread.

        Raises:
            TimeoutError: it took more than 10 s.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_TIMEOUT)

    def close(self) -> None:
        """Cancel all tasks, wait for them and end the thread."""
        self.call(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    for _ in range(5):  # a connection accepted just now has a task to be cancelled by then
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # transports closed just now say so in the next round
