"""The one form of a question, under which it is cached, watched and reported on."""

from typing import Final

from datakit.errors import ConfigError

Key = tuple[str, str]

_COMMON: Final = frozenset(
    "A AAAA CNAME NS SRV TXT MX SOA PTR CAA HTTPS SVCB".split()  # noqa: SIM905 - a list of words
)


def key_of(name: str, rdtype: str) -> Key:
    """Return name and type in their one form: lower case, upper case, no dot at the end.

    The dot of a single label stays: it says that no search domain completes it.

    Raises:
        ConfigError: they are no texts, or there is no such type.
    """
    if not isinstance(name, str) or not isinstance(rdtype, str):
        raise ConfigError(f"{name!r} {rdtype!r}: a name and a record type are texts")
    name = name.lower()
    if name[-1:] == "." and "." in name[:-1]:
        name = name[:-1]
    return name, rdtype if rdtype in _COMMON else _canonical(name, rdtype)


def _canonical(name: str, rdtype: str) -> str:
    import dns.exception
    import dns.rdatatype

    try:
        return dns.rdatatype.to_text(dns.rdatatype.from_text(rdtype))
    except (dns.exception.DNSException, ValueError) as exc:
        raise ConfigError(f"{name!r} {rdtype!r} cannot be asked for: {exc}") from exc


def zone_of(text: str) -> str:
    """Return a zone's name in the form in which names are compared with it; "" is the root.

    Raises:
        ConfigError: it is no domain name.
    """
    import dns.exception
    import dns.name

    try:
        if not isinstance(text, str) or "*" in text or any(c.isspace() for c in text):
            raise ValueError("not a zone")
        return dns.name.from_text(text).to_text(omit_final_dot=True).lower().rstrip(".")
    except (dns.exception.DNSException, ValueError) as exc:
        raise ConfigError(f"zones: {text!r} is no domain name: {exc}") from exc
