"""Passwords from Secrets Manager, fetched again when the database refuses them."""

import json
import math
from functools import cached_property
from typing import Any, Final

from datakit._extras import require
from datakit.auth.credentials import region_of_environment
from datakit.auth.masked import unlogged, without_frames
from datakit.auth.password import KeptAuth, Login
from datakit.auth.rotation import CURRENT, stage_for, wait_after
from datakit.errors import AuthError
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight import SingleFlight
from datakit.resilience.forks import renew_after_fork

CONNECT_TIMEOUT: Final = 2.0
READ_TIMEOUT: Final = 5.0
"""Seconds that Secrets Manager may take."""


class SecretAuth(KeptAuth):
    """Logs in with the `username` and `password` of a JSON secret in Secrets Manager.

    The secret is fetched with the first connection and kept. When the database refuses it, it is
    fetched again: the current version, then the pending one, in turn and with pauses for 8 s,
    which a rotation in progress needs. The secret's user name, if it has one, wins over the
    URL's. A secret that is no JSON is the password itself.

    secret: its name or ARN. region: None for the ARN's, else the environment's (AWS_REGION,
    AWS_DEFAULT_REGION), else as botocore finds it. endpoint_url: another server than AWS's.
    """

    def __init__(
        self, secret: str, *, region: str | None = None, endpoint_url: str | None = None
    ) -> None:
        super().__init__(secret, region, endpoint_url)
        self._secret = secret
        arn = secret.split(":")
        self._region = region or (arn[3] if secret.startswith("arn:") and len(arn) > 3 else None)
        self._endpoint_url = endpoint_url
        self._flights: SingleFlight[tuple[str | None, str]] = SingleFlight()
        self._known: tuple[str | None, str] | None = None
        self._stage = CURRENT
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Leave the client's sockets to the parent; called in a forked child."""
        vars(self).pop("_client", None)
        vars(self).pop("_session", None)

    def __repr__(self) -> str:
        return f"SecretAuth({self._secret!r})"

    @property
    def blocking(self) -> bool:
        """Whether the secret must be fetched."""
        return self._known is None

    def login(self, login: Login) -> Login:
        """Return `login` with the secret's password, and its user name if it has one.

        Raises:
            AuthError: the secret could not be fetched, or holds no password.
            DeadlineExceededError: the enclosing `deadline` was over before it was.
            MissingExtraError: botocore is not installed.
        """
        user, password = self._known or self._flights.run(self._secret, self._fetch)
        return Login(login.host, login.port, user or login.user, password)

    def refused(self, login: Login, failures: int) -> float | None:
        """Fetch another version next time, unless another caller has one already."""
        known = self._known
        if known is not None and known[1] == login.password:
            self._stage = stage_for(failures)
            self._known = None
            self._start_over()
        return wait_after(failures)

    def _fetch(self) -> tuple[str | None, str]:
        if self._known is not None:
            return self._known  # another fetched it while we came here
        try:
            self._known = _parse(self._secret, self._text())
        except BaseException as exc:
            without_frames(exc)
            raise
        return self._known

    def _text(self) -> str:
        """Return the secret, its current version where there is no other.

        Within a near `deadline` a client is asked that gives up with it.
        """
        left = deadline.bound(math.inf)
        is_near = left < CONNECT_TIMEOUT + READ_TIMEOUT
        client = self._new_client(left / 2, left / 2, attempts=1) if is_near else self._client
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectTimeoutError,
            ReadTimeoutError,
        )

        try:
            with unlogged():
                try:
                    found = client.get_secret_value(SecretId=self._secret, VersionStage=self._stage)
                except ClientError as exc:
                    missing = exc.response["Error"]["Code"] == "ResourceNotFoundException"
                    if not missing or self._stage == CURRENT:
                        raise
                    found = client.get_secret_value(SecretId=self._secret)
        except (BotoCoreError, ClientError) as exc:
            if is_near and isinstance(exc, ConnectTimeoutError | ReadTimeoutError):
                raise over(f"fetching the secret {self._secret}") from exc
            raise AuthError(f"the secret {self._secret} could not be fetched: {exc}") from exc
        text: str | None = found.get("SecretString")
        if text is None:
            raise AuthError(f"the secret {self._secret} is binary: expected text")
        return text

    @cached_property
    def _client(self) -> Any:
        return self._new_client(CONNECT_TIMEOUT, READ_TIMEOUT, attempts=3)

    @cached_property
    def _session(self) -> Any:
        session = require("botocore.session", extra="aws", purpose="SecretAuth")
        return session.get_session()

    def _new_client(self, connect_timeout: float, read_timeout: float, *, attempts: int) -> Any:
        session = self._session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
        )
        try:
            return session.create_client(
                "secretsmanager",
                region_name=self._region or region_of_environment(),
                endpoint_url=self._endpoint_url,
                config=config,
            )
        except BotoCoreError as exc:
            raise AuthError(f"the secret {self._secret} could not be fetched: {exc}") from exc


def _parse(secret: str, text: str) -> tuple[str | None, str]:
    """Return the user name, if there is one, and the password.

    Raises:
        AuthError: it is JSON without a password.
    """
    try:
        fields = json.loads(text)
    except ValueError:
        return None, text
    if not isinstance(fields, dict):
        return None, text
    password, user = fields.get("password"), fields.get("username")
    if not isinstance(password, str):
        raise AuthError(f"the secret {secret} has no field 'password'")
    return (user if isinstance(user, str) else None), password
