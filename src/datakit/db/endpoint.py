"""What kind of endpoint a host name is, and what that means for its connections. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from datakit.errors import ConfigError

KINDS: Final = ("proxy", "cluster", "reader", "instance", "generic", "lambda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A kind of endpoint and its profile. All times are seconds.

    pool_size, max_overflow: connections kept, and made beyond those when they are busy.
    recycle: age at which a connection is replaced when it is taken. probe_after: idle time after
        which one round trip tells whether a connection lives; None never to ask.
    connect_timeout: for one attempt. deadline: for connecting and for a transaction in all.
    keepalive_idle: silence after which the kernel asks whether the peer is there. silence: time
        without a word inside a statement after which a second TCP connection asks whether the
        server lives, which the kernel cannot tell; None never to ask.
    pins: whether session state costs the proxy its multiplexing; prepared statements are off and
        the pinning linter is on. writes: whether it must lead to a server that takes writes, which
        each new connection checks: a record may still point to the one before a failover.
    instances: for an endpoint of writers, the host name of its cluster's instances with "?" for
        the id; the servers are asked which there are. None reads it off the host name, if that is
        one of AWS's.
    fallback: the host of the writer, connected to when a reader's endpoint has no server left.
    """

    kind: str
    pool_size: int = 5
    max_overflow: int = 10
    recycle: float = 1_500.0
    probe_after: float | None = 5.0
    connect_timeout: float = 5.0
    deadline: float = 30.0
    keepalive_idle: int = 1
    pins: bool = False
    silence: float | None = 2.0
    writes: bool = False
    instances: str | None = None
    fallback: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Endpoint(kind={self.kind!r}): one of {', '.join(KINDS)}")
        if self.instances is not None and self.instances.count("?") != 1:
            raise ConfigError(
                f"Endpoint(instances={self.instances!r}): one ? for the id, such as ?.db.internal"
            )


PROFILES: Final[dict[str, Endpoint]] = {
    # A borrow may take until the failover behind the proxy is over; probes are discouraged.
    # Source: RDS Proxy documentation, "Connection management" and "Avoiding pinning".
    "proxy": Endpoint(
        kind="proxy", probe_after=None, connect_timeout=10.0, keepalive_idle=30, silence=None,
        pins=True,
    ),
    # A failover takes up to 60 s. Source: Aurora documentation, "High availability".
    "cluster": Endpoint(kind="cluster", deadline=60.0, writes=True),
    # Young connections, so that new replicas get their share.
    "reader": Endpoint(kind="reader", recycle=300.0),
    "instance": Endpoint(kind="instance", deadline=60.0),
    "generic": Endpoint(kind="generic"),
    # One request at a time, through a proxy as a rule; a frozen process cannot keep more alive.
    "lambda": Endpoint(
        kind="lambda", pool_size=1, max_overflow=0, probe_after=None, connect_timeout=10.0,
        keepalive_idle=30, silence=None, pins=True,
    ),
}  # fmt: skip

_LABEL: Final = r"[a-z0-9][a-z0-9-]*"
_RDS: Final = (  # compiled by its first use
    rf"(?P<first>{_LABEL})(?P<endpoint>\.endpoint)?\.(?P<second>{_LABEL})"
    r"(?P<rest>\.(?:[a-z0-9-]+\.rds\.amazonaws\.com|rds\.[a-z0-9-]+\.amazonaws\.com\.cn))"
)
_SECOND: Final = (
    ("proxy-", "proxy"),
    ("cluster-ro-", "reader"),
    ("cluster-custom-", "reader"),
    ("cluster-", "cluster"),
)


def kind_of(host: str) -> str:
    """Return "proxy", "cluster", "reader", "instance" or "generic" for a host name.

    Source: Aurora User Guide, "Aurora endpoint connections"; RDS Proxy documentation.
    """
    match = re.fullmatch(_RDS, host.lower().rstrip("."))
    if match is None:
        return "generic"
    second = match["second"]
    kind = next((kind for prefix, kind in _SECOND if second.startswith(prefix)), "instance")
    return kind if kind == "proxy" or not match["endpoint"] else "generic"


def instances_of(host: str) -> str | None:
    """Return the host name of the instances of a cluster's endpoint, "?" for the id; None if it is
    none of Aurora's.

    Source: Aurora User Guide, "Aurora endpoint connections".
    """
    match = re.fullmatch(_RDS, host.lower().rstrip("."))
    if match is None or match["endpoint"] or not match["second"].startswith("cluster-"):
        return None
    account = re.sub(r"^cluster-(ro-|custom-)?", "", match["second"])
    return f"?.{account}{match['rest']}"


def endpoint_for(host: str, given: "str | Endpoint") -> Endpoint:
    """Return the profile for `host`: the one given, by name or whole; "auto" reads the host name.

    Raises:
        ConfigError: `given` is neither.
    """
    if isinstance(given, Endpoint):
        return given
    name = kind_of(host) if given == "auto" else given
    if not isinstance(name, str) or name not in PROFILES:
        raise ConfigError(f"endpoint={given!r}: auto, {', '.join(KINDS)} or an Endpoint")
    return PROFILES[name]
