"""The certificate with which a test server speaks TLS."""

import shutil
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from datakit.errors import ConfigError
from datakit.testing._account import give
from datakit.testing._run_directory import RunDirectory

Tls = bool | tuple[str | Path, str | Path] | None
"""A certificate and its key (paths of PEM files), True for a self-signed pair, or no TLS."""

NAME = "db.shop.internal"
"""The DNS name in a self-signed certificate, beside the server's addresses."""

_KEY_MODE = 0o600  # PostgreSQL takes no other. Source: its manual, 19.9.2
_CERTIFICATE_MODE = 0o644


class Certificate(NamedTuple):
    """Two PEM files that the servers' account can read."""

    certificate: Path
    key: Path


def check_tls(owner: str, tls: Tls) -> None:
    """Refuse what is no value of `tls=` of the class `owner`.

    Raises:
        ConfigError: it is no pair, or one of its files is missing.
    """
    if tls is None or isinstance(tls, bool):
        return
    if isinstance(tls, str | Path) or len(tls) != 2:
        raise ConfigError(f"{owner}(tls={tls!r}): give (certificate, key), or True for a new pair")
    if missing := [path for path in tls if not Path(path).is_file()]:
        raise ConfigError(f"{owner}(tls=...): {missing[0]} is no file: give PEM files, or True")


def make_certificate(tls: Tls, addresses: Sequence[str], run: RunDirectory) -> Certificate | None:
    """Return the pair that `tls` asks for, placed in `run`; None for no TLS.

    addresses: the IP addresses that a self-signed certificate is for, besides `NAME`.

    Raises:
        ConfigError: a self-signed pair is asked for and openssl is not installed.
        RuntimeError: openssl failed; the message holds its output.
    """
    if not tls:
        return None
    pair = Certificate(run.path / "certificate.pem", run.path / "key.pem")
    if isinstance(tls, bool):
        _self_sign(pair, addresses, run)
    else:
        for source, target in zip(tls, pair, strict=True):
            shutil.copyfile(source, target)
            give(target, run.account)
    pair.key.chmod(_KEY_MODE)
    pair.certificate.chmod(_CERTIFICATE_MODE)
    return pair


def _self_sign(pair: Certificate, addresses: Sequence[str], run: RunDirectory) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError("tls=True needs openssl: apt-get install openssl, or give your own pair")
    names = ",".join([f"DNS:{NAME}", *(f"IP:{ip_address(address)}" for address in addresses)])
    run.run([
        program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName={names}",
        "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
        "-keyout", pair.key, "-out", pair.certificate,
    ])  # fmt: skip
