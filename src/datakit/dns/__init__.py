"""A resolver that honours TTLs and goes on with the last known address."""

from datakit.dns.addresses import Address
from datakit.dns.answer import Answer
from datakit.dns.counters import ResolverStats, ServerStats
from datakit.dns.resolver import Resolver
from datakit.dns.resolver_async import AsyncResolver
from datakit.dns.watchers import Change

__all__ = [
    "Address",
    "Answer",
    "AsyncResolver",
    "Change",
    "Resolver",
    "ResolverStats",
    "ServerStats",
]
