"""An authoritative DNS server on loopback whose records change and which fails on demand."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Literal, NamedTuple, Self, get_args

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from datakit.errors import ConfigError
from datakit.testing._loop import LoopThread
from datakit.testing._ports import PortTakenError, launch_on_free_port
from datakit.testing._with_block import WithBlock
from datakit.testing._zone import Zone, parse_name

Failure = Literal[
    "servfail", "refused", "nxdomain", "truncated", "silent", "late",
    "wrong_id", "wrong_question", "wrong_source", "no_edns",
]  # fmt: skip
"""How a server can fail; `DnsServer.fail` says what each does."""

_RCODES = {"servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED}
_MAX_QUERIES = 100_000
_MAX_TASKS = 500
_TCP_IDLE = 30.0
_UDP_LIMIT = 1232  # Source: DNS flag day 2020


class _Mode(NamedTuple):
    failure: Failure
    seconds: float


class DnsServer(WithBlock):
    """Answers over UDP and TCP at one port, for as long as the `with` block.

    address, port: where it listens; a free port when none is given.
    zone: it answers for this zone and refuses other names; the default is all names.
    soa_ttl, soa_minimum: seconds, in the SOA record that comes with NXDOMAIN and NODATA.

    Raises:
        ConfigError: `zone` is no domain name.
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        zone: str = ".",
        soa_ttl: int = 5,
        soa_minimum: int = 5,
    ) -> None:
        self.address = address
        self._wanted_port = port
        self._port = port or 0
        self._zone = Zone(zone, soa_ttl, soa_minimum)
        self._lock = Lock()
        self._queries: deque[tuple[str, str]] = deque(maxlen=_MAX_QUERIES)
        self._modes: dict[str | None, _Mode] = {}
        self._spoofs = False
        self._loop: LoopThread | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"DnsServer({self.endpoint})"

    @property
    def port(self) -> int:
        """Its port for UDP and TCP; 0 before the first start."""
        return self._port

    @property
    def endpoint(self) -> str:
        """`address:port`, as `Resolver(servers=[...])` takes it."""
        return f"{self.address}:{self._port}"

    @property
    def queries(self) -> list[tuple[str, str]]:
        """(name, record type) of the last 100,000 queries, oldest first, names in lower case."""
        with self._lock:
            return list(self._queries)

    def queries_for(self, name: str, rdtype: str | None = None) -> int:
        """Return how many queries came for `name`, of one record type or of all."""
        wanted = _plain(name)
        kind = rdtype and rdtype.upper()
        return sum(n == wanted and kind in (None, t) for n, t in self.queries)

    def clear_queries(self) -> None:
        """Forget the queries so far."""
        with self._lock:
            self._queries.clear()

    def set(self, name: str, rdtype: str, records: Sequence[str], *, ttl: int = 60) -> None:
        """Replace a record set, at once and while the server runs.

        A CNAME replaces all records of its name, and any other record a CNAME.

        records: in zone file form, such as `["10.0.0.1"]` or `["10 mail.example."]`. Names in
            them count as complete, with or without a dot at the end. Answers shuffle them.
        ttl: seconds.

        Raises:
            ConfigError: the name, type or a record cannot be read, or is outside the zone.
        """
        self._zone.set(name, rdtype, records, ttl)

    def remove(self, name: str, rdtype: str | None = None) -> None:
        """Remove a record set, or all of the name's; one that is not there is no error.

        Raises:
            ConfigError: the name or type cannot be read.
        """
        self._zone.remove(name, rdtype)

    def set_negative_ttl(self, ttl: int, minimum: int | None = None) -> None:
        """Change the SOA of negative answers: its TTL and, `ttl` by default, its minimum."""
        self._zone.soa_ttl = ttl
        self._zone.soa_minimum = ttl if minimum is None else minimum

    def fail(self, failure: Failure, *, name: str | None = None, seconds: float = 0.0) -> None:
        """Fail from now on, for one name or for all that have no failure of their own.

        `servfail`, `refused`, `nxdomain`: answer with that code. `truncated`: an empty answer with
        the TC bit over UDP, the whole over TCP. `silent`: no answer. `late`: the right answer after
        `seconds`. `wrong_id`: the right answer under another id. `wrong_question`: to another
        question. `wrong_source`: from another port (over UDP). `no_edns`: FORMERR to a query with
        EDNS, the right answer to one without.

        Raises:
            ConfigError: there is no such failure, or `late` comes without `seconds`.
        """
        if failure not in get_args(Failure):
            raise ConfigError(f"fail({failure!r}): one of {', '.join(get_args(Failure))}")
        if (failure == "late") != (seconds > 0):
            raise ConfigError(f"fail({failure!r}, seconds={seconds!r}): seconds belong to 'late'")
        with self._lock:
            self._modes[name and _plain(name)] = _Mode(failure, seconds)

    def heal(self, name: str | None = None) -> None:
        """Answer rightly again: for one name, or for all when none is given."""
        with self._lock:
            if name is None:
                self._modes.clear()
            else:
                self._modes.pop(_plain(name), None)

    def start(self) -> Self:
        """Start its thread; return itself when it answers.

        Raises:
            ConfigError: it runs already.
            RuntimeError: the port is taken.
        """
        if self._loop is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        self._loop = LoopThread("datakit-dns-server")
        try:
            launch_on_free_port(self._launch, [self.address], self._wanted_port, udp=True)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop answering and end the thread. Records stay. Closing twice is fine."""
        if self._loop is not None:
            self._loop.call(self._stop())
            self._loop.close()
            self._loop = None

    def _launch(self, port: int) -> None:
        assert self._loop is not None
        self._port = port
        try:
            self._loop.call(self._listen(port))
        except OSError as exc:
            self._loop.call(self._stop())
            raise PortTakenError(f"cannot listen on {self.endpoint}: {exc}") from exc

    async def _listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self.address, port)
        )
        self._tcp = await asyncio.start_server(self._serve_stream, self.address, port)

    async def _stop(self) -> None:
        if self._udp is not None:
            self._udp.abort()
        if self._tcp is not None:
            self._tcp.close()
        self._udp = self._tcp = None

    def _spawn_answer(self, wire: bytes, peer: tuple[str, int]) -> None:
        """Answer a datagram; one too many is lost, as it would be in a full socket buffer."""
        if len(self._tasks) < _MAX_TASKS:
            task = asyncio.get_running_loop().create_task(self._answer_datagram(wire, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_datagram(self, wire: bytes, peer: tuple[str, int]) -> None:
        reply = await self._reply(wire, over_udp=True)
        if reply is None or self._udp is None:
            return
        if self._spoofs:
            with socket.socket(
                socket.AF_INET6 if ":" in self.address else socket.AF_INET, socket.SOCK_DGRAM
            ) as other:
                other.bind((self.address, 0))
                other.sendto(reply, peer)
        else:
            self._udp.sendto(reply, peer)

    async def _serve_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the queries of one connection in turn. Source: RFC 1035, section 4.2.2."""
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= _MAX_TASKS:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            while True:
                async with asyncio.timeout(_TCP_IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(length)
                reply = await self._reply(wire, over_udp=False)
                if reply is not None:
                    writer.write(struct.pack("!H", len(reply)) + reply)
                    await writer.drain()
        except asyncio.CancelledError:
            writer.transport.abort()
        except (OSError, EOFError):
            pass  # the client left or was idle
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _reply(self, wire: bytes, *, over_udp: bool) -> bytes | None:
        """Return the bytes to send, None for a query that gets no answer."""
        try:
            query = dns.message.from_wire(wire, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return None
        if query.flags & dns.flags.QR:
            return None
        mode = self._note(query)
        if mode is not None and mode.failure == "silent":
            return None
        if mode is not None and mode.failure == "late":
            await asyncio.sleep(mode.seconds)
        return self._wire(query, mode and mode.failure, over_udp=over_udp)

    def _note(self, query: dns.message.Message) -> _Mode | None:
        """Record the query; return how to fail it."""
        if not query.question:
            return None
        question = query.question[0]
        name = str(question.name).lower().rstrip(".")
        with self._lock:
            self._queries.append((name, dns.rdatatype.to_text(question.rdtype)))
            return self._modes.get(name, self._modes.get(None))

    def _wire(self, query: dns.message.Message, failure: str | None, *, over_udp: bool) -> bytes:
        self._spoofs = over_udp and failure == "wrong_source"
        if failure in _RCODES or (failure == "no_edns" and query.edns >= 0):
            response = dns.message.make_response(query)
            response.set_rcode(_RCODES.get(failure or "", dns.rcode.FORMERR))
        elif failure == "nxdomain":
            response = self._zone.deny(query)
        elif failure == "truncated" and over_udp:
            response = dns.message.make_response(query)
            response.flags |= dns.flags.TC | dns.flags.AA
        else:
            response = self._zone.answer(query)
        if failure == "wrong_id":
            response.id ^= 0x5555
        if failure == "wrong_question":
            response.question[0].name = dns.name.from_text("elsewhere.invalid")
        limit = min(max(query.payload, 512), _UDP_LIMIT) if over_udp else 65_535
        return response.to_wire(max_size=limit, prefer_truncation=True)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server._spawn_answer(data, addr)


def _plain(name: str) -> str:
    """Return `name` in lower case and without the dot at its end."""
    return str(parse_name(name)).lower().rstrip(".")
