"""What both Redis clients agree on: options of a connection, commands, and the sense of replies.

redis-py connects, authenticates and speaks the protocol; its retries, health checks and
maintenance notifications are off, and its pools, which know no overall time limit, are not used.
"""

import math
from typing import Any, Final

from redis.exceptions import ReadOnlyError, ResponseError

from datakit.auth import Login
from datakit.cache.backends.url import Target
from datakit.cache.entry import Entry, EntryError, pack, unpack
from datakit.resilience.deadlines import deadline

MAX_CONNECTIONS: Final = 50
"""Connections per process (and per event loop); more callers wait their turn."""

NEWEST_PROTOCOL: Final = 3
OLDEST_PROTOCOL: Final = 2


def allowed(seconds: float) -> float:
    """Return the smaller of `seconds` and what is left of the enclosing `deadline`, if any."""
    left = deadline.remaining()
    return seconds if left is None else min(seconds, left)


AUTH_LIFE: Final = 11 * 3600.0
"""Seconds after which a connection that logged in with a token is replaced: ElastiCache drops it
after 12 hours. Source: ElastiCache User Guide, "Authenticating with IAM"."""


def is_outlived(target: Target, made_at: float, now: float) -> bool:
    """Return whether a connection must log in again, `made_at` and `now` on the same clock."""
    return target.auth is not None and now - made_at >= AUTH_LIFE


def connection_options(target: Target, protocol: int, login: Login) -> dict[str, Any]:
    """Return the keyword arguments of a redis-py connection, timeouts left out."""
    options: dict[str, Any] = {
        "host": target.host,
        "port": target.port,
        "db": target.db,
        "username": login.user or None,
        "password": login.password,
        "protocol": protocol,
        "driver_info": None,  # CLIENT SETINFO costs two round trips a connection
        "health_check_interval": 0,
    }
    if target.tls:
        options |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": target.ca,
        }
    return options


def set_command(key: str, entry: Entry, seconds: float) -> tuple[str | bytes | int, ...]:
    """Return the command that stores `entry` for `seconds`."""
    raw = pack(entry, key)
    if seconds == math.inf:
        return ("SET", key, raw)
    return ("SET", key, raw, "PX", max(1, math.ceil(seconds * 1000)))


def read_get(reply: object, key: str) -> Entry | None:
    """Return the entry in the reply to GET.

    Raises:
        EntryError: it is no entry.
    """
    if reply is None:
        return None
    if not isinstance(reply, bytes):
        raise EntryError("not a string of bytes")
    return unpack(reply, key)


def is_other_type(exc: ResponseError) -> bool:
    """Return whether GET was refused since something else than a string lies under the key."""
    return str(exc).startswith("WRONGTYPE")


def is_spent(exc: ResponseError) -> bool:
    """Return whether the connection leads to the wrong node: a primary that was demoted.

    Source: redis-py keeps such a socket in its pool, still attached to the demoted node.
    """
    return isinstance(exc, ReadOnlyError)
