"""The way of a name from the root of the DNS to its records, server by server."""

from collections.abc import Mapping, Sequence

from datakit._clock import SYSTEM_CLOCK
from datakit.dns.hop import Trace
from datakit.dns.ipv6 import has_ipv6
from datakit.dns.iteration import Iteration
from datakit.dns.resolver import Resolver
from datakit.dns.resolver import run as run_sync
from datakit.dns.resolver_async import AsyncResolver
from datakit.dns.resolver_async import run as run_async
from datakit.errors import ConfigError, DnsError, NameNotFoundError, NoDataError, ServerFailureError
from datakit.resilience import checks

Roots = Mapping[str, Sequence[str]]


def trace(
    name: str,
    rdtype: str = "A",
    *,
    resolver: Resolver | None = None,
    roots: Roots | None = None,
    port: int = 53,
    timeout: float = 2.0,
) -> Trace:
    """Return how `name` is found from the root, and what the configured resolver says.

    Only authoritative servers are asked: the root's, then those that each referral names, with
    the addresses that came with it or, where none did, found in the same way. Where the way ends
    before an answer, `error` says so and the hops so far are there.

    resolver: the one to compare with; None for one that asks the servers of resolv.conf.
    roots: addresses by name of the root servers, instead of the Internet's. port: of all
    servers. timeout: seconds a query may take.

    Raises:
        ConfigError: an argument is of no use; there can be no such name or type.
        DeadlineExceededError: nothing is left of the enclosing `deadline`.
    """
    iteration = _begin(name, rdtype, roots, port, timeout)
    records: tuple[str, ...] = ()
    error = ""
    try:
        records = run_sync(iteration.steps())
    except ServerFailureError as exc:
        error = str(exc)
    said: tuple[str, ...] | str
    try:
        said = (resolver or Resolver()).refresh(name, rdtype).records
    except (NameNotFoundError, NoDataError):
        said = ()
    except (DnsError, ConfigError) as exc:
        said = str(exc)
    return Trace(name, rdtype, records, tuple(iteration.hops), said, error)


async def trace_async(
    name: str,
    rdtype: str = "A",
    *,
    resolver: AsyncResolver | None = None,
    roots: Roots | None = None,
    port: int = 53,
    timeout: float = 2.0,  # noqa: ASYNC109 - as in the twin
) -> Trace:
    """Return how `name` is found from the root; otherwise as `trace`."""
    iteration = _begin(name, rdtype, roots, port, timeout)
    records: tuple[str, ...] = ()
    error = ""
    try:
        records = await run_async(iteration.steps())
    except ServerFailureError as exc:
        error = str(exc)
    said: tuple[str, ...] | str
    try:
        said = (await (resolver or AsyncResolver()).refresh(name, rdtype)).records
    except (NameNotFoundError, NoDataError):
        said = ()
    except (DnsError, ConfigError) as exc:
        said = str(exc)
    return Trace(name, rdtype, records, tuple(iteration.hops), said, error)


def _begin(name: str, rdtype: str, roots: Roots | None, port: int, timeout: float) -> Iteration:
    checks.seconds("trace", "timeout", timeout, above_zero=True)
    checks.count("trace", "port", port)
    if roots is not None and (isinstance(roots, str) or not roots):
        raise ConfigError(f"trace(roots={roots!r}): expected addresses by server name")
    return Iteration(name, rdtype, roots or root_hints(), port, timeout, has_ipv6(), SYSTEM_CLOCK)


def root_hints() -> dict[str, tuple[str, ...]]:
    """Return the addresses of the Internet's root servers, by name."""
    from importlib.resources import files

    text = (files("datakit.dns") / "root.hints").read_text(encoding="ascii")
    roots: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if not line.startswith(";"):
            name, address = line.split()
            roots[name] = (*roots.get(name, ()), address)
    return roots
