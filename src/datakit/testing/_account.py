"""The unprivileged account that servers run as when we are root: PostgreSQL refuses root."""

import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple


class Account(NamedTuple):
    """An account by its numbers."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """Return the account to switch to, None to stay who we are."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def can_execute(path: Path, account: Account | None) -> bool:
    """Whether the account may run the file `path` and enter every directory above it."""
    real = path.resolve()
    return account is None or all(_may_enter(p, account) for p in (real, *real.parents))


def give(tree: Path, account: Account | None) -> None:
    """Make `tree` and all in it the account's own."""
    if account is None:
        return
    for path in (tree, *tree.rglob("*")):
        os.chown(path, *account, follow_symlinks=False)


def _may_enter(path: Path, account: Account) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
