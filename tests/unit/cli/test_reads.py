"""The demo's scenes of reading end when they are interrupted."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from datakit import Cache
from datakit.cli.demo import reads

if TYPE_CHECKING:
    from datakit.cli.demo.shop import Shop


class InterruptedPool(ThreadPoolExecutor):
    """Ctrl-C arrives when 50 of the callers are started."""

    started = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.started += 1
        if self.started == 50:
            raise KeyboardInterrupt
        return super().submit(fn, *args, **kwargs)


def test_an_interrupt_among_the_starting_callers_ends_the_stampede(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reads, "ThreadPoolExecutor", InterruptedPool)
    shop = SimpleNamespace(
        cache=Cache("memory://"), queries=0, load_product=lambda number: SimpleNamespace(id=number)
    )
    with pytest.raises(KeyboardInterrupt):
        reads.stampede(cast("Shop", shop))
