"""Where a connection's user and password come from."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datakit.errors import AuthError, ConfigError
from datakit.resilience.deadlines import deadline, over

if TYPE_CHECKING:
    from datakit.resilience.flight_async import AsyncSingleFlight


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


class KeptAuth(PasswordAuth):
    """One that keeps its passwords, so that tasks which come at once share a look-up.

    made_with: its type and options; two that were made with the same give the same passwords.
    """

    def __init__(self, *made_with: object) -> None:
        self.made_with = (type(self), *made_with)
        self._start_over()

    def _start_over(self) -> None:
        """Let no task share a look-up that began before a refusal."""
        self._shared: AsyncSingleFlight[Login] | None = None

    async def alogin(self, login: Login) -> Login:
        """Return what `login` does, without holding the event loop up, nor a thread a task."""
        if not self.blocking:
            return self.login(login)
        if self._shared is None:
            from datakit.resilience.flight_async import AsyncSingleFlight

            self._shared = AsyncSingleFlight()
        return await self._shared.run(login, lambda: asyncio.to_thread(self.login, login))


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
        password = self._function()
        if isinstance(password, str):
            return Login(login.host, login.port, login.user, password)
        if inspect.iscoroutine(password):
            password.close()
        returned = type(password).__name__
        del password  # from the traceback: it may be the right one, as bytes
        raise _no_text(login, returned)

    async def alogin(self, login: Login) -> Login:
        """As `login`; a coroutine function is awaited, any other runs in a thread.

        Raises:
            DeadlineExceededError: the enclosing `deadline` was over before.
        """
        limit = asyncio.timeout(deadline.remaining())
        try:
            async with limit:
                password = await self._ask()
        except TimeoutError as exc:
            if limit.expired():
                raise over(f"waiting for the password of {login.user}") from exc
            raise
        if isinstance(password, str):
            return Login(login.host, login.port, login.user, password)
        returned = type(password).__name__
        del password
        raise _no_text(login, returned)

    async def _ask(self) -> object:
        """Return what the function returns, or awaits to."""
        password = self._function() if self._is_async else await asyncio.to_thread(self._function)
        if not isinstance(password, str) and inspect.isawaitable(password):
            return await password
        return password

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


def _no_text(login: Login, returned: str) -> AuthError:
    hint = ": an asynchronous function needs create_async_engine" if returned == "coroutine" else ""
    return AuthError(
        f"auth: the function for {login.user} at {login.host} returned {returned}, expected the "
        f"password as text{hint}"
    )
