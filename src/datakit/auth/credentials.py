"""AWS credentials: those of the environment, else whatever botocore finds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from datakit._extras import require
from datakit.auth.masked import unlogged, without_frames
from datakit.errors import AuthError
from datakit.resilience.flight import SingleFlight
from datakit.resilience.forks import renew_after_fork


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key. expires_at: epoch seconds, None when it does not say."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None


class CredentialSource(Protocol):
    """Where credentials come from. `blocking` says that `load` may wait for a network."""

    @property
    def blocking(self) -> bool:
        """Whether `load` may do I/O."""
        ...

    def load(self) -> Credentials:
        """Return credentials that are valid now."""
        ...

    def forget(self) -> None:
        """Find them anew next time: the last ones were refused."""


def of_environment(variables: Mapping[str, str]) -> Credentials | None:
    """Return the credentials that the variables hold, as in Lambda; None when they hold none.

    Source: AWS SDKs and Tools Reference Guide, "AWS access keys".
    """
    access_key = variables.get("AWS_ACCESS_KEY_ID")
    secret_key = variables.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return Credentials(access_key, secret_key, variables.get("AWS_SESSION_TOKEN") or None)


def region_of_environment() -> str | None:
    """Return the region that the environment names; Lambda sets the first, botocore reads the
    second alone."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


class DefaultCredentials:
    """Those of the environment, read each time; else botocore's, imported then.

    Threads that ask at once share a look through botocore's sources. A forked child, or a process
    restored from a snapshot, looks for itself.
    """

    def __init__(self) -> None:
        self._flights: SingleFlight[Credentials] = SingleFlight()
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget what botocore found: a lock of it may be held."""
        self._found: Any = None

    @property
    def blocking(self) -> bool:
        """Whether `load` may do I/O: the environment holds nothing."""
        return of_environment(os.environ) is None

    def load(self) -> Credentials:
        """Return the credentials to sign with now.

        Raises:
            AuthError: there are none.
            MissingExtraError: the environment holds none, and botocore is not installed.
        """
        found = of_environment(os.environ)
        if found is not None:
            return found
        try:
            return self._flights.run("botocore", self._of_botocore)
        except BaseException as exc:
            without_frames(exc)
            raise

    def forget(self) -> None:
        """Have botocore look through its sources again."""
        self._found = None

    def _of_botocore(self) -> Credentials:
        session = require("botocore.session", extra="aws", purpose="finding AWS credentials")
        from botocore.exceptions import BotoCoreError, ClientError

        found: Any = None
        frozen: Any = None
        unreadable = ""
        try:
            with unlogged():
                found = self._found or session.get_session().get_credentials()
                frozen = found and found.get_frozen_credentials()
        except (BotoCoreError, ClientError, RuntimeError) as exc:  # the last of expired ones
            raise AuthError(f"the AWS credentials could not be found: {exc}") from exc
        except ValueError as exc:  # it holds all that was read: no cause of ours
            unreadable = type(exc).__name__
        if unreadable:
            raise AuthError(f"the AWS credentials could not be read: {unreadable}")
        if not frozen:
            raise AuthError(
                "no AWS credentials: neither in the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY) nor where botocore looks"
            )
        self._found = found
        # Only credentials that botocore renews know their end, and nothing public tells it.
        expiry = getattr(found, "_expiry_time", None)
        return Credentials(
            frozen.access_key, frozen.secret_key, frozen.token, expiry and expiry.timestamp()
        )
