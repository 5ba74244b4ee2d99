"""The sync and the asyncio form of a class have the same methods with the same parameters."""

import inspect

import pytest

from datakit import AsyncResolver, Resolver
from datakit.db.transaction_async import AsyncTransaction
from datakit.db.transaction_sync import Transaction
from datakit.dns.system import AsyncSystemFirst, SystemFirst


def public_methods(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(member).parameters)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("sync", "asynchronous"),
    [
        (Resolver, AsyncResolver),
        (SystemFirst, AsyncSystemFirst),
        (Transaction, AsyncTransaction),
    ],
)
def test_twins_share_their_public_signatures(sync: type, asynchronous: type) -> None:
    assert public_methods(sync) == public_methods(asynchronous)
