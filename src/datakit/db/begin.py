"""What a transaction is begun with: SQLAlchemy's execution options, and a statement. Pure."""

from typing import Final

from datakit.errors import ConfigError

BeginOption = str | bool | int | None

READ_ONLY: Final = "START TRANSACTION READ ONLY"
"""MySQL's and MariaDB's; SQLAlchemy has no option for it. `SET TRANSACTION` would hold for whoever
has the connection next, if this transaction never came to a statement."""

_POSTGRESQL: Final = {"read_only": "postgresql_readonly", "deferrable": "postgresql_deferrable"}


def is_read_only(options: dict[str, BeginOption]) -> bool:
    """Return whether a transaction of these options takes no writes."""
    return bool(options.get("read_only") or options.get("postgresql_readonly"))


def execution_options(
    options: dict[str, BeginOption], dialect: str
) -> tuple[dict[str, BeginOption], str | None]:
    """Return SQLAlchemy's options for `dialect`, and a statement to begin with, if it takes one.

    Raises:
        ConfigError: the database has no such option.
    """
    if dialect == "postgresql":
        return {_POSTGRESQL.get(name, name): value for name, value in options.items()}, None
    if options.get("deferrable"):
        raise ConfigError("deferrable=True: PostgreSQL alone has deferrable transactions")
    rest = {name: value for name, value in options.items() if name != "deferrable"}
    return rest, READ_ONLY if options.get("read_only") else None
