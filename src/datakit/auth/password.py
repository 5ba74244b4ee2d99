"""Where a connection's user and password come from."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from datakit.errors import AuthError, ConfigError


@dataclass(frozen=True, slots=True)
class Login:
    """What a connection logs in with: to `host` and `port`, as `user`."""

    host: str
    port: int
    user: str
    password: str | None = field(default=None, repr=False)


class PasswordAuth(ABC):
    """Gives each new connection its password.

    needs_verified_tls: whether it must never go to a server that has not proved who it is.
    """

    needs_verified_tls = False

    @property
    def blocking(self) -> bool:
        """Whether `login` may wait for a network; `alogin` moves it to a thread then."""
        return True

    @abstractmethod
    def login(self, login: Login) -> Login:
        """Return `login` with its password, and perhaps another user.

        Raises:
            AuthError: there is none to be had.
        """

    async def alogin(self, login: Login) -> Login:
        """Return what `login` does, without holding the event loop up."""
        if self.blocking:
            return await asyncio.to_thread(self.login, login)
        return self.login(login)

    @abstractmethod
    def refused(self, login: Login, failures: int) -> float | None:
        """Take note that the server refused `login`, for the `failures`th time in a row.

        Return the seconds to wait before asking for another; None when there is none.
        """


class CalledAuth(PasswordAuth):
    """Calls `function()` for each connection; what it returns, or awaits to, is the password."""

    def __init__(self, function: Callable[[], str | Awaitable[str]]) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)

    def login(self, login: Login) -> Login:
        """Return `login` with the password that the function returns now.

        Raises:
            AuthError: the function returned something else than text.
        """
        return _with_password(login, self._function())

    async def alogin(self, login: Login) -> Login:
        """As `login`; a coroutine function is awaited, any other runs in a thread."""
        if self._is_async:
            awaited = self._function()
            assert not isinstance(awaited, str)
            return _with_password(login, await awaited)
        return await super().alogin(login)

    def refused(self, login: Login, failures: int) -> float | None:
        """Ask the function once more, which may know a newer one."""
        return 0.0 if failures <= 1 else None


def password_auth(given: "PasswordAuth | Callable[[], str | Awaitable[str]]") -> PasswordAuth:
    """Return `given`, a function made into one that asks it.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, PasswordAuth):
        return given
    if callable(given):
        return CalledAuth(given)
    raise ConfigError("auth=: expected IamAuth(), SecretAuth(), ElastiCacheIam() or a function")


def _with_password(login: Login, password: object) -> Login:
    if not isinstance(password, str):
        raise AuthError(
            f"auth: the function for {login.user} at {login.host} returned "
            f"{type(password).__name__}, expected the password as text"
        )
    return Login(login.host, login.port, login.user, password)
