"""Tokens to log in to RDS, Aurora and RDS Proxy with, made here from the process's credentials."""

import re
from typing import Final

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.auth.credentials import (
    CredentialSource,
    DefaultCredentials,
    region_of_environment,
)
from datakit.auth.lifetime import TOKEN_EXPIRES
from datakit.auth.password import KeptAuth, Login
from datakit.auth.sigv4 import presign
from datakit.auth.tokens import TokenCache
from datakit.errors import ConfigError

_REGION: Final = re.compile(
    r"\.([a-z]{2}(?:-[a-z]+)+-\d+)\.rds\.amazonaws\.com$"
    r"|\.rds\.([a-z]{2}(?:-[a-z]+)+-\d+)\.amazonaws\.com\.cn$"
)


def region_of(host: str) -> str | None:
    """Return the region that an RDS host name carries, None when it carries none."""
    match = _REGION.search(host.rstrip(".").lower())
    return (match[1] or match[2]) if match else None


def region_for(host: str) -> str:
    """Return the region of `host`, else that of the environment.

    Raises:
        ConfigError: neither tells.
    """
    region = region_of(host) or region_of_environment()
    if not region:
        raise ConfigError(f"the region of {host} is not known: pass region=... or set AWS_REGION")
    return region


_credentials = DefaultCredentials()
"""Those of `rds_token`: botocore's look at a metadata service is not repeated for each token."""


def rds_token(host: str, port: int, user: str, region: str | None = None) -> str:
    """Return a token to log in as `user` at `host`, good for 15 minutes.

    It is signed with the environment's credentials, else with those that botocore finds. `host`
    must be the endpoint's own name: a token for a CNAME of it is refused. region: None for the
    host name's or the environment's.

    Raises:
        AuthError: there are no credentials.
        ConfigError: the region is not known.
        MissingExtraError: the environment holds no credentials, and botocore is not installed.
    """
    auth = IamAuth(region=region, credentials=_credentials)
    return auth.login(Login(host, port, user)).password or ""


class IamAuth(KeptAuth):
    """Logs in with IAM tokens, made here: no client object, and no botocore where the environment
    holds the keys.

    A token is used for 10 minutes, or until its credentials end; one that was refused is thrown
    away, and one more is tried.

    region: None for the host name's, else the environment's. host, port: what the token is for,
    when the engine connects by another name (a CNAME) or through a tunnel.
    """

    needs_verified_tls = True

    def __init__(
        self,
        *,
        region: str | None = None,
        host: str | None = None,
        port: int | None = None,
        credentials: CredentialSource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(region, host, port, credentials, clock)
        self._region = region
        self._host = host
        self._port = port
        self._credentials = credentials or DefaultCredentials()
        self._tokens = TokenCache(clock)

    def __repr__(self) -> str:
        return f"IamAuth(region={self._region!r}, host={self._host!r}, port={self._port!r})"

    @property
    def blocking(self) -> bool:
        """Whether botocore must be asked for credentials."""
        return self._credentials.blocking

    def login(self, login: Login) -> Login:
        """Return `login` with a token as its password.

        Raises: as `rds_token`.
        """
        host, port = (self._host or login.host).rstrip("."), self._port or login.port
        region = self._region or region_for(host)
        credentials = self._credentials.load()
        key = (host, port, login.user, region, credentials.access_key)

        def sign(wall: float) -> str:
            return presign(
                host=host,
                port=port,
                params={"Action": "connect", "DBUser": login.user},
                service="rds-db",
                region=region,
                credentials=credentials,
                at=wall,
                expires=TOKEN_EXPIRES,
            )

        token = self._tokens.get(key, sign, credentials.expires_at)
        return Login(login.host, login.port, login.user, token)

    def refused(self, login: Login, failures: int) -> float | None:
        """Throw all tokens away and have one more made, of credentials that are found anew."""
        self._tokens.clear()
        self._credentials.forget()
        self._start_over()
        return 0.0 if failures <= 1 else None
