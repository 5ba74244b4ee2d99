"""A resolver that honours TTLs and goes on with the last known address."""

from datakit._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Address": "datakit.dns.addresses",
        "Answer": "datakit.dns.answer",
        "ResolverStats": "datakit.dns.counters",
        "ServerStats": "datakit.dns.counters",
        "Hop": "datakit.dns.hop",
        "Trace": "datakit.dns.hop",
        "patch": "datakit.dns.patching",
        "Resolver": "datakit.dns.resolver",
        "AsyncResolver": "datakit.dns.resolver_async",
        "trace": "datakit.dns.tracing",
        "trace_async": "datakit.dns.tracing",
        "Change": "datakit.dns.watchers",
    },
)
