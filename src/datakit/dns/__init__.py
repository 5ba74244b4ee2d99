"""A resolver that honours TTLs and goes on with the last known address."""

from datakit.dns.addresses import Address
from datakit.dns.answer import Answer
from datakit.dns.counters import ResolverStats, ServerStats
from datakit.dns.hop import Hop, Trace
from datakit.dns.patching import patch
from datakit.dns.resolver import Resolver
from datakit.dns.resolver_async import AsyncResolver
from datakit.dns.tracing import trace, trace_async
from datakit.dns.watchers import Change

__all__ = [
    "Address",
    "Answer",
    "AsyncResolver",
    "Change",
    "Hop",
    "Resolver",
    "ResolverStats",
    "ServerStats",
    "Trace",
    "patch",
    "trace",
    "trace_async",
]
