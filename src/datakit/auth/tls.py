"""What TLS means, the same for every driver."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from datakit.errors import ConfigError

if TYPE_CHECKING:
    import ssl

MODES: Final = ("verify-full", "verify-ca", "off")

BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Amazon Linux
    "/etc/ssl/cert.pem",  # macOS
)
"""Where systems keep their roots in one file, which is how libpq takes them."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server proves who it is.

    ca: a PEM file of the authorities to trust, such as the RDS bundle for instances and clusters;
        None for the system's, which hold those of RDS Proxy.
    mode: "verify-full" checks the certificate and that it is for the host name; "verify-ca" the
        certificate alone; "off" is no TLS at all.
    cert, key: PEM files of the client's own certificate, where the server asks for one.

    Raises:
        ConfigError: the mode is none of these, a file is not there, or `key` comes without `cert`.
    """

    ca: str | Path | None = None
    mode: str = "verify-full"
    cert: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"Tls(mode={self.mode!r}): one of {', '.join(MODES)}")
        if self.key is not None and self.cert is None:
            raise ConfigError(f"Tls(key={str(self.key)!r}): needs the certificate, cert=")
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"Tls({name}={str(path)!r}): there is no such file")

    @classmethod
    def of(cls, given: "Tls | str") -> "Tls":
        """Return `given`, which may be a mode alone.

        Raises:
            ConfigError: it is neither.
        """
        if isinstance(given, Tls):
            return given
        if not isinstance(given, str):
            raise ConfigError(f"tls={given!r}: expected Tls(...) or one of {', '.join(MODES)}")
        return cls(mode=given)

    @property
    def verifies(self) -> bool:
        """Whether the server must prove that it is the host that was asked for."""
        return self.mode == "verify-full"

    def context(self) -> "ssl.SSLContext | None":
        """Return the context to connect with, None for no TLS."""
        if self.mode == "off":
            return None
        import ssl

        context = ssl.create_default_context(cafile=self.ca)
        context.check_hostname = self.verifies
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context

    def libpq(self) -> dict[str, str]:
        """Return libpq's connection parameters.

        Source: PostgreSQL documentation, "SSL support" of libpq.
        """
        if self.mode == "off":
            return {"sslmode": "disable"}
        params = {
            "sslmode": self.mode,
            "sslrootcert": str(self.ca or system_roots()),
            "gssencmode": "disable",  # where there is a Kerberos ticket it would replace TLS
        }
        if self.cert is not None:
            params["sslcert"] = str(self.cert)
        if self.key is not None:
            params["sslkey"] = str(self.key)
        return params


def system_roots() -> str:
    """Return the file with the system's roots; "system" where there is none in a known place.

    libpq's own word "system" means where its OpenSSL was built to look, and that of psycopg's
    binary wheel looks where no system has them.
    """
    import ssl

    found = (ssl.get_default_verify_paths().cafile, *BUNDLES)
    return next((path for path in found if path and Path(path).is_file()), "system")
