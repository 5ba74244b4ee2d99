"""datakit in an engine that somebody else makes: `?plugin=datakit` in its URL."""

from typing import Any

from sqlalchemy import URL, Engine
from sqlalchemy.engine import CreateEnginePlugin

from datakit.auth import Tls
from datakit.auth.masked import Masked
from datakit.db.engine import attach
from datakit.db.plan import plan_for
from datakit.errors import ConfigError

OPTIONS = ("datakit_auth", "datakit_endpoint", "datakit_tls", "datakit_tls_ca")


class DatakitPlugin(CreateEnginePlugin):
    """Lets the engine of a URL connect as one of `datakit.create_engine` does.

    It reads these options off the URL's query: `datakit_auth=iam`; `datakit_endpoint=`, a kind of
    endpoint; `datakit_tls=`, a mode of `Tls`; `datakit_tls_ca=`, the file of the authorities.
    Where the caller chose no pool of its own, the pool is datakit's, bounded by `deadline`, with
    the endpoint's size; each keyword that was given wins.

    Raises:
        ConfigError: as `datakit.create_engine`; an option is unknown, or given twice.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        options = _options(url)
        self._auth = options.get("datakit_auth")
        self._tls = _tls(options)
        self._endpoint = options.get("datakit_endpoint", "auto")
        if self._auth not in {None, "iam"}:
            raise ConfigError("datakit_auth= in a database URL: only 'iam' can be said there")
        is_async = kwargs.get("_is_async")  # how SQLAlchemy's asyncio half says so
        factory = "create_async_engine" if is_async else "create_engine"
        plain = self.update_url(url)
        plan = plan_for(factory, plain, self._auth, self._tls, self._endpoint, kwargs)
        kwargs.update(plan.kwargs(kwargs))

    def update_url(self, url: URL) -> URL:
        """Return `url` without what is said to datakit, its password not to be shown."""
        plain = url.difference_update_query(["plugin", *OPTIONS])
        return plain if plain.password is None else plain.set(password=Masked(plain.password))

    def engine_created(self, engine: Engine) -> None:
        """Let `engine` connect through datakit."""
        attach(engine, auth=self._auth, tls=self._tls, endpoint=self._endpoint)


def _options(url: URL) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in url.query.items():
        if not name.startswith("datakit_"):
            continue
        if name not in OPTIONS:
            raise ConfigError(f"{name}= in a database URL: one of {', '.join(OPTIONS)}")
        if not isinstance(value, str):
            raise ConfigError(f"{name}= in a database URL: given more than once")
        found[name] = value
    return found


def _tls(options: dict[str, str]) -> Tls | str | None:
    mode, ca = options.get("datakit_tls"), options.get("datakit_tls_ca")
    return mode if ca is None else Tls(ca=ca, mode=mode or "verify-full")
