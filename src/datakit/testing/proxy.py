"""A TCP proxy that harms what passes through it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from datakit.errors import ConfigError
from datakit.testing._link import Faults, Link, ReplyDrop, Traffic, reset_stream
from datakit.testing._loop import LoopThread
from datakit.testing._ports import PortTakenError, launch_on_free_port
from datakit.testing._with_block import WithBlock


class FaultProxy(WithBlock):
    """Forwards `host:port` to a server, for as long as the `with` block; faults come on demand.

    A fault begins when its method returns and lasts until `heal`, for the connections there are
    and for new ones. Several add up. Any thread may call the methods, before the start too.

    target_host, target_port: the server.
    host, port: where the proxy listens; a free port when none is given.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.host = host
        self._wanted_port = port
        self._port = port or 0
        self._target = (target_host, target_port)
        self._faults = Faults()
        self._faults.flow.set()
        self._traffic = Traffic()
        self._links: set[Link] = set()
        self._loop: LoopThread | None = None
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        target_host, target_port = self._target
        return f"FaultProxy({self.host}:{self._port} -> {target_host}:{target_port})"

    @property
    def port(self) -> int:
        """Its TCP port; 0 before the first start."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._traffic.connections

    @property
    def open_connections(self) -> int:
        """How many connections are forwarded now."""
        return len(self._links)

    @property
    def bytes_to_server(self) -> int:
        """How many bytes of requests were forwarded so far."""
        return self._traffic.to_server

    @property
    def bytes_to_client(self) -> int:
        """How many bytes of replies were forwarded so far."""
        return self._traffic.to_client

    @property
    def bytes_held(self) -> int:
        """How many bytes of replies were received and are held back now."""
        return self._traffic.held

    def retarget(self, host: str, port: int) -> None:
        """Forward new connections to another server; those there are stay where they are."""
        self._target = (host, port)

    def delay(self, seconds: float) -> None:
        """Hold back each piece of a reply (up to 64 KiB) for `seconds`.

        Raises:
            ConfigError: `seconds` is negative.
        """
        if not seconds >= 0:
            raise ConfigError(f"FaultProxy.delay({seconds!r}): give 0 or more seconds")
        self._apply(lambda: setattr(self._faults, "delay", seconds))

    def black_hole(self) -> None:
        """Accept and keep connections and forward nothing; `heal` delivers what was held."""
        self._apply(self._faults.flow.clear)

    def reset(self) -> None:
        """Reset (RST) all connections, and new ones as soon as they are accepted."""
        self._apply(self._reset)

    def half_close(self) -> None:
        """End the reply stream (FIN) and still forward requests; replies are thrown away.

        `heal` brings no ended stream back, it spares new connections.
        """
        self._apply(self._half_close)

    def truncate(self, reply_bytes: int) -> None:
        """Close each connection after that many more bytes of replies.

        Raises:
            ConfigError: `reply_bytes` is negative.
        """
        if reply_bytes < 0:
            raise ConfigError(f"FaultProxy.truncate({reply_bytes!r}): give 0 or more bytes")
        self._apply(lambda: self._truncate(reply_bytes))

    def drop_reply(self, when: bytes | None = None, *, times: int | None = None) -> None:
        r"""Have a request executed and its reply lost: the outcome is unknown to the client.

        Once a client has sent the bytes `when`, the server gets that request and answers it. The
        answer is thrown away, the server finishes all it was sent, and only then is the client's
        connection reset. So a client that sees the error can already see the request's effect.

        when: such as `b"COMMIT"`; None for whatever is sent next.
        times: how many connections suffer it; None for all.

        Raises:
            ConfigError: `when` is empty or `times` is less than 1.
        """
        if when == b"" or (times is not None and times < 1):
            raise ConfigError(
                f"FaultProxy.drop_reply({when!r}, times={times!r}): 1 or more of each"
            )
        self._apply(lambda: setattr(self._faults, "drop", ReplyDrop(when, times)))

    def heal(self) -> None:
        """End all faults. Connections that were cut stay cut."""
        self._apply(self._heal)

    def start(self) -> Self:
        """Start its thread; return itself when it accepts connections.

        Raises:
            ConfigError: it runs already.
            RuntimeError: the port is taken.
        """
        if self._loop is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        self._loop = LoopThread("datakit-fault-proxy")
        try:
            launch_on_free_port(self._launch, [self.host], self._wanted_port)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Cut all connections and end the thread. Closing twice is fine."""
        if self._loop is not None:
            self._apply(self._stop_listening)
            self._loop.close()
            self._loop = None

    def _apply(self, change: Callable[[], None]) -> None:
        """Make a change in the loop's thread, the only one that touches links and faults."""
        if self._loop is None:
            change()
        else:
            self._loop.call(_settled(change))

    def _launch(self, port: int) -> None:
        assert self._loop is not None
        self._port = port
        try:
            self._server = self._loop.call(asyncio.start_server(self._serve, self.host, port))
        except OSError as exc:
            raise PortTakenError(f"cannot listen on {self.host}:{port}: {exc}") from exc

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # cancelled by close(); Python 3.11's stream server logs a traceback for a cancelled task
        with suppress(asyncio.CancelledError):
            await self._relay(reader, writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._traffic.connections += 1
        if self._faults.resets:
            reset_stream(writer)
            return
        try:
            await self._faults.flow.wait()
            server = await asyncio.open_connection(*self._target)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        except OSError:
            reset_stream(writer)
            return
        link = Link((reader, writer), server, self._faults, self._traffic)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def _reset(self) -> None:
        self._faults.resets = True
        for link in self._links:
            link.reset()

    def _half_close(self) -> None:
        self._faults.half_closed = True
        for link in self._links:
            link.half_close()

    def _truncate(self, reply_bytes: int | None) -> None:
        self._faults.truncate_after = reply_bytes
        for link in self._links:
            link.reply_bytes_left = reply_bytes

    def _heal(self) -> None:
        self._truncate(None)
        self._faults.delay = 0.0
        self._faults.resets = self._faults.half_closed = False
        self._faults.drop = None
        self._faults.flow.set()


async def _settled(change: Callable[[], None]) -> None:
    change()
    await asyncio.sleep(0)  # an aborted transport closes its socket in the loop's next round
