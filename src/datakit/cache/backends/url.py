"""A cache's URL, read without importing any driver. Pure."""

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from datakit.auth.password import Login, PasswordAuth, password_auth
from datakit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN: Final = ("memory", "redis", "rediss", "memcached")
PLANNED: Final = (
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
    "memcached+tls",
    "memcached+elasticache",
)
_AFTER_PLACE: Final = re.compile(r"[/?]")
ESCAPES: Final = "in a password, percent-encode '#' as %23, '/' as %2F, '?' as %3F, '@' as %40"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a cache lies. The credentials are left out of the repr.

    ca: path of a file of PEM certificates to trust beside the system's; TLS only.
    auth: where user and password come from, instead of the URL.
    """

    scheme: str
    host: str = ""
    port: int = 0
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    auth: PasswordAuth | None = field(default=None, repr=False)

    @property
    def login(self) -> Login:
        """What the URL says of the user."""
        return Login(self.host, self.port, self.username or "", self.password)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted; the certificate is always verified then."""
        return self.scheme == "rediss"

    def __str__(self) -> str:
        if self.scheme == "memory":
            return "memory://"
        host = f"[{self.host}]" if ":" in self.host else self.host
        database = "" if self.scheme == "memcached" else f"/{self.db}"
        return f"{self.scheme}://{host}:{self.port}{database}"


def parse_url(url: str) -> Target:
    """Return where `url` points.

    Raises:
        ConfigError: the URL is of no use; the message holds no credential.
    """
    if not isinstance(url, str):
        kind = type(url).__qualname__
        raise ConfigError(f"cache URL: give text such as 'redis://host:6379/0', not a {kind}")
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in PLANNED:
        raise ConfigError(f"cache URL {scheme}://: not available yet; use {_known()}")
    if scheme not in KNOWN:
        raise ConfigError(f"cache URL: unknown scheme; use {_known()}")
    if "#" in url:
        raise ConfigError(f"cache URL {scheme}://: '#' has no meaning here; {ESCAPES}")
    parts, port = _split(url, scheme)
    if scheme == "memory":
        return _memory(parts)
    return _memcached(parts, port) if scheme == "memcached" else _redis(scheme, parts, port)


def _split(url: str, scheme: str) -> tuple[SplitResult, int | None]:
    place = _AFTER_PLACE.split(url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    if "," in place:
        raise ConfigError(f"cache URL {scheme}://: several hosts are not available yet; give one")
    malformed = ConfigError(f"cache URL {scheme}://: malformed host or port; {ESCAPES}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise malformed from None
    if port == 0 or " " in place:
        raise malformed
    return parts, port


def _known() -> str:
    return ", ".join(f"{scheme}://" for scheme in KNOWN)


def _memory(parts: SplitResult) -> Target:
    if parts.netloc or parts.path or parts.query:
        raise ConfigError("cache URL memory://: takes nothing after the slashes; see max_items=")
    return Target("memory")


def _memcached(parts: SplitResult, port: int | None) -> Target:
    if parts.username or parts.password or parts.path.strip("/") or parts.query:
        raise ConfigError("cache URL memcached://: takes a host and a port, and nothing else")
    return Target("memcached", host=parts.hostname or "localhost", port=port or 11_211)


def _redis(scheme: str, parts: SplitResult, port: int | None) -> Target:
    path = parts.path.strip("/")
    if path and not (path.isascii() and path.isdigit()):
        raise ConfigError(
            f"cache URL {scheme}://: the path is the database number, as in /0; {ESCAPES}"
        )
    return Target(
        scheme,
        host=parts.hostname or "localhost",
        port=port or 6379,
        db=int(path or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ca=_ca(scheme, parts.query),
    )


def _ca(scheme: str, query: str) -> str | None:
    options = dict(parse_qsl(query, keep_blank_values=True))
    ca = options.pop("ssl_ca_certs", None)
    if options or (ca is not None and scheme != "rediss"):
        raise ConfigError(
            f"cache URL {scheme}://: the only option is ssl_ca_certs=, of rediss://; "
            f"timeouts are arguments of Cache; {ESCAPES}"
        )
    return ca


def with_auth(target: Target, given: "PasswordAuth | Callable[[], Any] | None") -> Target:
    """Return `target` with user and password from `given`.

    Raises:
        ConfigError: there is nobody to log in to, or tokens would go out in the clear.
    """
    if given is None:
        return target
    auth = password_auth(given)
    if target.scheme in ("memory", "memcached"):
        raise ConfigError(f"cache URL {target.scheme}://: takes no auth=")
    if auth.needs_verified_tls and not target.tls:
        raise ConfigError(f"{auth!r} needs verified TLS: use rediss://{target.host}")
    return replace(target, auth=auth)
