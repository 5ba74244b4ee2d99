"""Which servers are asked for which name, under which names, and how long each may take."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datakit.dns.question import zone_of
from datakit.dns.servers import Server, ServerGroup, parse_server
from datakit.errors import ConfigError

RESOLV_CONF: Final = Path("/etc/resolv.conf")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether resolv.conf has changed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What resolv.conf, or the arguments instead of it, say. timeout: seconds of one query."""

    group: ServerGroup
    search: tuple[str, ...]
    ndots: int
    timeout: float | None
    attempts: int


def parse_resolv_conf(text: str) -> Settings:
    """Return what `text` says; what cannot be read is skipped, as the C library does.

    Source: resolv.conf(5): at most 3 servers; the last `search` or `domain` counts; ndots at
    most 15, timeout at most 30 s, attempts at most 5.
    """
    servers: list[Server] = []
    search: tuple[str, ...] = ()
    options: dict[str, int] = {"ndots": 1, "attempts": 2}
    rotate = False
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values:
            with suppress(ConfigError):
                servers.append(parse_server(values[0]))
        elif keyword in ("search", "domain") and values:
            search = tuple(values if keyword == "search" else values[:1])
        elif keyword == "options":
            for option in values:
                name, _, number = option.partition(":")
                if name in _MOST and number.isdecimal():
                    options[name] = min(int(number), _MOST[name])
                rotate |= option == "rotate"
    timeout = options.get("timeout")
    return Settings(
        group=ServerGroup(servers[:3], rotate=rotate),
        search=search,
        ndots=options["ndots"],
        timeout=None if timeout is None else float(max(timeout, 1)),
        attempts=max(options["attempts"], 1),
    )


_MOST: Final = {"ndots": 15, "timeout": 30, "attempts": 5}


class Configuration:
    """The settings in force: given ones, or those of resolv.conf, read again when it changes.

    Raises:
        ConfigError: a server or zone cannot be read.
    """

    def __init__(
        self,
        servers: Sequence[str] | None,
        zones: Mapping[str, Sequence[str]] | None,
        search: Sequence[str] | None,
        path: Path = RESOLV_CONF,
    ) -> None:
        for name, given in (("servers", servers), *dict(zones or {}).items(), ("search", search)):
            if isinstance(given, str):
                raise ConfigError(f"{name}={given!r}: expected a list")
        self._search = None if search is None else tuple(search)
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._look_at = 0.0
        self._zones = {
            zone_of(zone): ServerGroup([parse_server(server) for server in given])
            for zone, given in dict(zones or {}).items()
        }
        for zone, group in self._zones.items():
            if not group.servers:
                raise ConfigError(f"zones: {zone!r} has no servers")
        self._given: Settings | None = None
        if servers is not None:
            group = ServerGroup([parse_server(server) for server in servers])
            self._given = Settings(group, self._search or (), 1, None, 2)
            if not group.servers and not self._zones:
                raise ConfigError("servers=[]: there is nobody to ask")
        self._read: Settings | None = None

    def settings(self, now: float) -> Settings:
        """Return the settings in force at the monotonic second `now`.

        Raises:
            ConfigError: resolv.conf is needed and cannot be read.
        """
        if self._given is not None:
            return self._given
        if self._read is None or now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._read = self._look()
        return self._read

    def _look(self) -> Settings:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if self._read is not None and seen == self._seen:
                return self._read
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as exc:
            if self._read is not None:
                return self._read  # being replaced just now
            raise ConfigError(f"no DNS server: pass servers=[...]; {exc}") from exc
        self._seen = seen
        settings = parse_resolv_conf(text)
        if self._search is None:
            return settings
        return Settings(
            settings.group, self._search, settings.ndots, settings.timeout, settings.attempts
        )

    def group_for(self, name: str, settings: Settings) -> ServerGroup:
        """Return the servers for `name`: those of the most specific zone that holds it.

        Source: a private hosted zone of Route 53 that matches is final, whatever it answers.
        """
        labels = name.lower().strip(".").split(".")
        for i in range(len(labels) if self._zones else 0):
            group = self._zones.get(".".join(labels[i:]))
            if group is not None:
                return group
        return self._zones.get("", settings.group)

    def groups(self) -> list[ServerGroup]:
        """Return all groups that are known now."""
        settings = self._given or self._read
        return [*self._zones.values(), *([settings.group] if settings else [])]


def candidates(name: str, settings: Settings) -> list[str]:
    """Return the names to ask for in turn, each complete.

    Source: resolv.conf(5), `search` and `ndots`.
    """
    if name.endswith(".") or not settings.search:
        return [name.rstrip(".") or "."]
    searched = [f"{name}.{domain.strip('.')}" for domain in settings.search if domain.strip(".")]
    first = name.count(".") >= settings.ndots
    return [name, *searched] if first else [*searched, name]
