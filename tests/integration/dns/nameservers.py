"""A private DNS on loopback: root and top level on knot, the zones below on BIND, unbound beside.

All listen on one port, each on an address of its own, since a referral carries no port. Unbound
is told where each zone is: it is the oracle for what the answers are.
"""

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.exception
import dns.message
import dns.query

from datakit.testing._ports import PortTakenError, free_port, launch_on_free_port
from datakit.testing._run_directory import RunDirectory, ServerProcess

ROOT, SHOP, CACHE = (f"127.0.53.{n}" for n in (1, 2, 3))
LEAF = "127.0.0.1"  # BIND listens on the addresses of interfaces only
ADDRESSES = (ROOT, SHOP, LEAF, CACHE)

SOA = "SOA ns hostmaster 1 3600 600 86400 {minimum}"

ZONES = {
    ".": f"""
@ 3600 {SOA.format(minimum=5)}
@ 3600 NS ns.rootsrv.
ns.rootsrv. 3600 A {ROOT}
shop. 3600 NS ns.shop.
ns.shop. 3600 A {SHOP}
other. 3600 NS ns.other.
ns.other. 3600 A {LEAF}
""",
    "shop.": f"""
@ 3600 {SOA.format(minimum=5)}
@ 3600 NS ns
ns 3600 A {SHOP}
example 1800 NS ns1.example
ns1.example 1800 A {LEAF}
glueless 1800 NS ns.other.
lame 1800 NS ns0.lame
lame 1800 NS ns1.lame
ns0.lame 1800 A {ROOT}
ns1.lame 1800 A {LEAF}
dead 1800 NS ns.dead
ns.dead 1800 A 127.0.53.99
""",
    "example.shop.": f"""
@ 300 {SOA.format(minimum=7)}
@ 300 NS ns1
@ 300 NS ns2
ns1 300 A {LEAF}
ns2 300 A {LEAF}
www 60 A 192.0.2.10
www 60 A 192.0.2.11
www 60 AAAA 2001:db8::10
alias 30 CNAME www
away 40 CNAME www.other.
dangling 40 CNAME nobody
zero 0 A 192.0.2.12
brief 1 A 192.0.2.13
mail 300 MX 10 mx.example.shop.
_db._tcp 300 SRV 1 5 5432 www.example.shop.
text 300 TXT "v=spf1 -all" "second"
caa 300 CAA 0 issue "ca.example.net"
svc 300 HTTPS 1 . alpn="h2,h3" port=8443
svcb 300 SVCB 2 www.example.shop. port=5432
ptr 300 PTR www.example.shop.
{"".join(f"many 300 A 192.0.2.{n}{chr(10)}" for n in range(1, 100))}
""",
    "other.": f"""
@ 300 {SOA.format(minimum=5)}
@ 300 NS ns
ns 300 A {LEAF}
www 120 A 192.0.2.20
""",
    "glueless.shop.": f"""
@ 300 {SOA.format(minimum=5)}
@ 300 NS ns.other.
www 60 A 192.0.2.30
""",
    "lame.shop.": f"""
@ 300 {SOA.format(minimum=5)}
@ 300 NS ns0
@ 300 NS ns1
ns0 300 A {ROOT}
ns1 300 A {LEAF}
www 60 A 192.0.2.40
""",
}
ON_LEAF = ("example.shop.", "other.", "glueless.shop.", "lame.shop.")


class Nameservers:
    """Four real servers, for the length of a `with` block."""

    def __init__(self) -> None:
        self.port = 0
        self.tls_port = 0
        """Where unbound speaks TLS."""
        self.https_port = 0
        """Where unbound speaks HTTPS."""
        self._run = RunDirectory()
        self.servers: dict[str, ServerProcess] = {}

    def __enter__(self) -> Self:
        try:
            launch_on_free_port(self._launch, ADDRESSES, None, udp=True)
        except BaseException:
            self._run.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._run.close()

    @property
    def certificate(self) -> Path:
        """Unbound's self-signed certificate, for its address and for `dns.example`."""
        return self._run.path / "cert.pem"

    def at(self, address: str) -> str:
        return f"{address}:{self.port}"

    def _launch(self, port: int) -> None:
        self.port = port
        self.tls_port, self.https_port = free_port([CACHE]), free_port([CACHE])
        path = self._run.path
        for zone, text in ZONES.items():
            (path / f"{zone}zone").write_text(f"$ORIGIN {zone}\n{text}")
        self._knot(ROOT, ".")
        self._knot(SHOP, "shop.")
        self._bind()
        self._unbound()
        for address, zone in ((ROOT, "."), (SHOP, "shop."), (LEAF, "other."), (CACHE, "other.")):
            self._wait_for(address, zone)

    def _knot(self, address: str, zone: str) -> None:
        own = self._directory(address)
        (own / "knot.conf").write_text(
            f"server:\n  rundir: {own}\n  listen: {address}@{self.port}\n"
            f"database:\n  storage: {own}\n"
            f"log:\n  - target: stderr\n    any: info\n"
            f"zone:\n  - domain: {zone}\n    file: {self._run.path}/{zone}zone\n"
            f"    zonefile-sync: -1\n    journal-content: none\n"
        )
        self._start(address, "knot", [_program("knotd"), "-c", own / "knot.conf"])

    def _bind(self) -> None:
        own = self._directory(LEAF)
        zones = "".join(
            f'zone "{zone}" {{ type primary; file "{self._run.path}/{zone}zone"; }};\n'
            for zone in ON_LEAF
        )
        (own / "named.conf").write_text(
            f'options {{ directory "{own}"; pid-file none; recursion no; notify no;\n'
            f"  dnssec-validation no;\n"
            f"  listen-on port {self.port} {{ {LEAF}; }}; listen-on-v6 {{ none; }};\n"
            f'  session-keyfile "{own}/session.key"; }};\ncontrols {{ }};\n{zones}'
        )
        self._start(LEAF, "bind9", [_program("named"), "-f", "-g", "-c", own / "named.conf"])

    def _unbound(self) -> None:
        own = self._directory(CACHE)
        key = self._run.path / "key.pem"
        self._run.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=dns", "-addext", f"subjectAltName=IP:{CACHE},DNS:dns.example",
             "-keyout", key, "-out", self.certificate]
        )  # fmt: skip
        homes = {".": ROOT, "shop.": SHOP, **dict.fromkeys(ON_LEAF, LEAF)}
        stubs = "".join(
            f'stub-zone:\n  name: "{zone}"\n  stub-addr: {address}@{self.port}\n'
            for zone, address in homes.items()
        )
        (own / "unbound.conf").write_text(
            f"server:\n  interface: {CACHE}@{self.port}\n  interface: {CACHE}@{self.tls_port}\n"
            f"  interface: {CACHE}@{self.https_port}\n  https-port: {self.https_port}\n"
            f"  tls-port: {self.tls_port}\n  tls-service-key: {key}\n"
            f'  tls-service-pem: {self.certificate}\n  directory: "{own}"\n  chroot: ""\n'
            f'  username: ""\n  pidfile: ""\n  use-syslog: no\n  do-ip6: no\n  ede: yes\n'
            f"  serve-expired: yes\n  ede-serve-expired: yes\n"
            f'  do-not-query-localhost: no\n  module-config: "iterator"\n  num-threads: 1\n'
            f"  minimal-responses: yes\n  outgoing-range: 64\n"
            f"  incoming-num-tcp: 200\n  tcp-idle-timeout: 2000\nremote-control:\n"
            f"  control-enable: no\n{stubs}"
        )
        argv: list[str | Path] = [_program("unbound"), "-d", "-p", "-c", own / "unbound.conf"]
        self._start(CACHE, "unbound", argv)

    def _directory(self, address: str) -> Path:
        own = self._run.path / address
        own.mkdir(exist_ok=True)
        own.chmod(0o777)
        return own

    def _start(self, address: str, package: str, argv: list[str | Path]) -> None:
        own = self._run.path / address
        self.servers[address] = self._run.spawn(argv, cwd=own, log=own / "log")

    def _wait_for(self, address: str, zone: str) -> None:
        query = dns.message.make_query(zone, "SOA")
        give_up_at = time.monotonic() + 15
        while time.monotonic() < give_up_at:
            if not self.servers[address].alive:
                break
            try:
                if dns.query.udp(query, address, timeout=0.3, port=self.port).answer:
                    return
            except (dns.exception.Timeout, OSError):
                continue
        log = (self._run.path / address / "log").read_text(errors="replace")
        kind = PortTakenError if "address already in use" in log.lower() else RuntimeError
        raise kind(f"the server on {address} did not start: {log[-2000:]}")


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    assert found, f"{name} is not installed: run scripts/install_servers"
    return found
