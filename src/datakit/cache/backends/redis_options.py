"""What both kinds of Redis connection are made of.

redis-py connects, authenticates and speaks the protocol; its retries, health checks and
maintenance notifications are off.
"""

from typing import Any, Final

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from datakit.auth import Login
from datakit.cache.backends.base import RefusedError
from datakit.cache.backends.url import Target

NEWEST_PROTOCOL: Final = 3
OLDEST_PROTOCOL: Final = 2

AUTH_LIFE: Final = 11 * 3600.0
"""Seconds after which a connection that logged in with a token is replaced: ElastiCache drops it
after 12 hours. Source: ElastiCache User Guide, "Authenticating with IAM"."""


def is_outlived(target: Target, made_at: float, now: float) -> bool:
    """Return whether a connection must log in again, `made_at` and `now` on the same clock."""
    return target.auth is not None and now - made_at >= AUTH_LIFE


def connection_options(
    target: Target, protocol: int, login: Login, timeout: float | None
) -> dict[str, Any]:
    """Return the keyword arguments of a redis-py connection.

    timeout: seconds of each wait, None where another limit is over all of them.
    """
    options: dict[str, Any] = {
        "host": target.host,
        "port": target.port,
        "db": target.db,
        "username": login.user or None,
        "password": login.password,
        "protocol": protocol,
        "driver_info": None,  # CLIENT SETINFO costs two round trips a connection
        "health_check_interval": 0,
        "socket_timeout": timeout,
        "socket_connect_timeout": None,  # the socket comes connected, and set up
        "socket_keepalive": False,
    }
    if target.tls:
        options |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": target.ca,
        }
    return options


def refusal(exc: ResponseError) -> RefusedError:
    """Return the refusal in words that hold nothing of the command.

    A primary that was demoted spends its connection: redis-py would keep the socket in its pool,
    still attached to the wrong node.
    """
    if str(exc).startswith("WRONGTYPE"):
        return RefusedError("WRONGTYPE")
    if isinstance(exc, OutOfMemoryError):
        return RefusedError("the server's memory is full")
    return RefusedError(type(exc).__name__, spent=isinstance(exc, ReadOnlyError))
