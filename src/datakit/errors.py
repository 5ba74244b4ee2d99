"""The exceptions of datakit. All are picklable.

A type exists here only for a state that neither SQLAlchemy, the driver nor Python can express::

    DatakitError
    ├── ConfigError (ValueError)
    ├── MissingExtraError (ImportError)
    ├── DeadlineExceededError (TimeoutError)
    ├── CircuitOpenError                .retry_after
    ├── OverloadError
    ├── CommitUnknownError              .token
    ├── AuthError
    ├── CacheError
    │   ├── CacheUnavailableError
    │   ├── CacheKeyError (TypeError)
    │   └── CodecError
    └── DnsError
        ├── NameNotFoundError
        ├── NoDataError
        ├── ResolveTimeoutError
        └── ServerFailureError

When datakit gives up on a database error, the caller gets that very error, with a note that
tells the attempts, the elapsed time and the last verdict.
"""


class DatakitError(Exception):
    """Base of every error that datakit itself raises."""


class ConfigError(DatakitError, ValueError):
    """An argument, URL or combination of options that cannot work; the message names it."""


class MissingExtraError(DatakitError, ImportError):
    """A feature needs a package that is not installed; the message holds the pip command."""


class DeadlineExceededError(DatakitError, TimeoutError):
    """The time allowed by `deadline` or by a policy was over before the work was done."""


class CircuitOpenError(DatakitError):
    """A breaker refused the call. `retry_after` is the time until its next probe, in seconds."""

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadError(DatakitError):
    """A bulkhead had no free place in time; the work was not begun."""


class CommitUnknownError(DatakitError):
    """The link was lost during COMMIT, so the transaction is either committed or gone.

    It was not run again. `token` names the transaction where one was written, else None.
    """

    def __init__(self, message: str = "", *, token: str | None = None) -> None:
        super().__init__(message)
        self.token = token


class AuthError(DatakitError):
    """Credentials could not be made or were refused for good."""


class CacheError(DatakitError):
    """Base of the cache's errors."""


class CacheUnavailableError(CacheError):
    """The cache server did not take an invalidation or an explicit operation."""


class CacheKeyError(CacheError, TypeError):
    """An argument has no stable form to build a key of; the message names it."""


class CodecError(CacheError):
    """A value cannot be encoded for the cache."""


class DnsError(DatakitError):
    """Base of the resolver's errors."""


class NameNotFoundError(DnsError):
    """The name does not exist (NXDOMAIN)."""


class NoDataError(DnsError):
    """The name exists without a record of the type asked for (NODATA)."""


class ResolveTimeoutError(DnsError, TimeoutError):
    """No server answered in time."""


class ServerFailureError(DnsError):
    """Every server answered with a failure (SERVFAIL, REFUSED) or with nonsense."""
