"""The networks that a name may lead to, against DNS rebinding."""

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Final

from datakit.dns.question import Key
from datakit.dns.resolution import Found
from datakit.errors import ConfigError, ServerFailureError

_PLAIN: Final = frozenset({"A", "AAAA"})
_HINTING: Final = frozenset({"HTTPS", "SVCB"})
_HINTS: Final = re.compile(r'ipv[46]hint="([^"]+)"')


class AllowedNetworks:
    """Drops addresses outside the networks that `texts` name; None allows all.

    Raises:
        ConfigError: one of them is no network; the message names `owner`.
    """

    def __init__(self, owner: str, texts: Sequence[str] | None) -> None:
        try:
            self._networks = None if texts is None else tuple(ip_network(text) for text in texts)
        except ValueError as exc:
            raise ConfigError(f"{owner}(allowed_networks={texts!r}): {exc}") from None

    def part_of(self, key: Key, found: Found) -> Found:
        """Return `found` without the records that lead outside.

        Raises:
            ServerFailureError: nothing is left.
        """
        name, rdtype = key
        networks = self._networks
        if networks is None or not (rdtype in _PLAIN or rdtype in _HINTING):
            return found

        def is_within(record: str) -> bool:
            ips = [record] if rdtype in _PLAIN else _hints(record)
            return all(any(ip_address(ip) in network for network in networks) for ip in ips)

        kept = tuple(record for record in found.records if is_within(record))
        if not kept:
            raise ServerFailureError(
                f"{name}: {found.server} gave only addresses outside allowed_networks: "
                f"{', '.join(found.records[:5])}"
            )
        return replace(found, records=kept)


def _hints(record: str) -> list[str]:
    """Return the addresses that an HTTPS or SVCB record hints at."""
    return [ip for hints in _HINTS.findall(record) for ip in hints.split(",")]
