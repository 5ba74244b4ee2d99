"""Tokens kept for as long as they may be used."""

from collections.abc import Callable, Hashable
from typing import Final

from datakit._bounded import BoundedDict
from datakit._clock import Clock
from datakit.auth.lifetime import Token, is_usable, life_of

MAX_TOKENS: Final = 1_000


class TokenCache:
    """At most 1,000 tokens by key. Signing takes microseconds: nobody waits for another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: BoundedDict[Hashable, Token] = BoundedDict(MAX_TOKENS)

    def get(self, key: Hashable, sign: Callable[[float], str], expires_at: float | None) -> str:
        """Return the token of `key`; the one that `sign(wall)` makes when there is no usable one.

        wall: epoch seconds to sign at. expires_at: those at which the credentials behind it end.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        token = self._tokens.get(key)
        if token is None or not is_usable(token, now, wall):
            token = Token(sign(wall), now, wall, life_of(expires_at, wall))
            self._tokens[key] = token
        return token.value

    def clear(self) -> None:
        """Forget all."""
        self._tokens.clear()
