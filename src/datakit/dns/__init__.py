"""A resolver that honours TTLs and goes on with the last known address."""

from datakit.dns.answer import Answer
from datakit.dns.resolver import Resolver
from datakit.dns.resolver_async import AsyncResolver
from datakit.dns.resolver_base import Address

__all__ = ["Address", "Answer", "AsyncResolver", "Resolver"]
