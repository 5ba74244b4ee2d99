"""Tokens to log in to ElastiCache with, made here from the process's credentials."""

from typing import TYPE_CHECKING

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.auth.credentials import CredentialSource, DefaultCredentials
from datakit.auth.lifetime import TOKEN_EXPIRES
from datakit.auth.password import KeptAuth, Login
from datakit.auth.rds import region_for
from datakit.auth.sigv4 import presign
from datakit.auth.tokens import TokenCache

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider


class ElastiCacheIam(KeptAuth):
    """Logs in to an ElastiCache cache with IAM tokens.

    cache: the name of the cache or the id of the replication group, which tokens are for.
    user: the ElastiCache user. region: None for the environment's. serverless: whether it is a
    serverless cache.

    Source: ElastiCache User Guide, "Authenticating with IAM".
    """

    needs_verified_tls = True

    def __init__(
        self,
        cache: str,
        user: str,
        *,
        region: str | None = None,
        serverless: bool = False,
        credentials: CredentialSource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(cache, user, region, serverless, credentials, clock)
        self._cache = cache.lower()
        self._user = user
        self._region = region
        self._serverless = serverless
        self._credentials = credentials or DefaultCredentials()
        self._tokens = TokenCache(clock)

    def __repr__(self) -> str:
        return f"ElastiCacheIam({self._cache!r}, {self._user!r}, region={self._region!r})"

    @property
    def blocking(self) -> bool:
        """Whether botocore must be asked for credentials."""
        return self._credentials.blocking

    def login(self, login: Login) -> Login:
        """Return `login` with the user and a token as its password.

        Raises:
            AuthError: there are no credentials.
            ConfigError: the region is not known.
            MissingExtraError: the environment holds no credentials, and botocore is not installed.
        """
        region = self._region or region_for(self._cache)
        credentials = self._credentials.load()
        params = {"Action": "connect", "User": self._user}
        if self._serverless:
            params["ResourceType"] = "ServerlessCache"

        def sign(wall: float) -> str:
            return presign(
                host=self._cache,
                port=None,
                params=params,
                service="elasticache",
                region=region,
                credentials=credentials,
                at=wall,
                expires=TOKEN_EXPIRES,
            )

        token = self._tokens.get((region, credentials.access_key), sign, credentials.expires_at)
        return Login(login.host, login.port, self._user, token)

    def refused(self, login: Login, failures: int) -> float | None:
        """Throw all tokens away and have one more made, of credentials that are found anew."""
        self._tokens.clear()
        self._credentials.forget()
        self._start_over()
        return 0.0 if failures <= 1 else None

    def provider(self) -> "CredentialProvider":
        """Return what redis-py takes as `credential_provider=`.

        The server drops a connection 12 hours after it logged in; redis-py connects anew then.
        """
        from redis.credentials import CredentialProvider

        login, alogin = self.login, self.alogin
        asked = Login(self._cache, 0, self._user)

        class Provider(CredentialProvider):
            def get_credentials(self) -> tuple[str, str]:
                found = login(asked)
                return found.user, found.password or ""

            async def get_credentials_async(self) -> tuple[str, str]:
                found = await alogin(asked)
                return found.user, found.password or ""

        return Provider()
