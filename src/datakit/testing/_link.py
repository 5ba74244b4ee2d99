"""One connection through a `FaultProxy`, and the faults that all of them share."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

_CHUNK = 65_536
_DROP_GRACE = 5.0
_LINGER_NONE = struct.pack("ii", 1, 0)  # close() sends RST. Source: socket(7), SO_LINGER

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class ReplyDrop:
    """Which replies to throw away: those after the bytes `when`, on `left` connections."""

    when: bytes | None
    left: int | None

    def take(self, sent: bytes) -> bool:
        """Whether this connection's replies are to be dropped now that it has `sent` that."""
        if self.left == 0 or (self.when is not None and self.when not in sent):
            return False
        if self.left is not None:
            self.left -= 1
        return True


@dataclass(slots=True)
class Faults:
    """What is wrong now. `flow` is set while bytes pass."""

    delay: float = 0.0
    flow: asyncio.Event = field(default_factory=asyncio.Event)
    resets: bool = False
    half_closed: bool = False
    truncate_after: int | None = None
    drop: ReplyDrop | None = None


@dataclass(slots=True)
class Traffic:
    """What has passed, and what is held back now."""

    connections: int = 0
    to_server: int = 0
    to_client: int = 0
    held: int = 0


class CutError(Exception):
    """A fault ends the link."""


class Link:
    """A client's connection and the one made to the server for it."""

    def __init__(self, client: Stream, server: Stream, faults: Faults, traffic: Traffic) -> None:
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._faults = faults
        self._traffic = traffic
        self._tail = b""
        self._drops_replies = False
        self._client_ended = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.reply_bytes_left = faults.truncate_after

    async def run(self) -> None:
        """Forward in both directions until both have ended or a fault ends them."""
        if self._faults.half_closed:
            self.half_close()
        self._tasks = (
            asyncio.create_task(self._forward_requests()),
            asyncio.create_task(self._forward_replies()),
        )
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            if any(isinstance(_failure(task), OSError) for task in self._tasks):
                self.reset()  # as one side was
        except asyncio.CancelledError:
            self._to_client.transport.abort()
            self._to_server.transport.abort()
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            self._to_client.close()
            self._to_server.close()

    def reset(self) -> None:
        """Send RST to the client and the server."""
        reset_stream(self._to_client)
        reset_stream(self._to_server)
        for task in self._tasks:
            task.cancel()

    def half_close(self) -> None:
        """End the stream to the client and go on taking what it sends."""
        self._client_ended = True
        with contextlib.suppress(OSError):  # it left just now
            self._to_client.write_eof()

    async def _forward_requests(self) -> None:
        while chunk := await self._from_client.read(_CHUNK):
            await self._faults.flow.wait()
            self._look_for_drop(chunk)
            self._traffic.to_server += len(chunk)
            self._to_server.write(chunk)
            await self._to_server.drain()
        await self._faults.flow.wait()
        self._to_server.write_eof()

    def _look_for_drop(self, chunk: bytes) -> None:
        drop = self._faults.drop
        if drop is None or self._drops_replies:
            self._tail = b""
            return
        sent = self._tail + chunk
        self._drops_replies = drop.take(sent)
        overlap = len(drop.when) - 1 if drop.when else 0
        self._tail = sent[-overlap:] if overlap else b""

    async def _forward_replies(self) -> None:
        while chunk := await self._from_server.read(_CHUNK):
            if self._drops_replies:
                await self._let_server_finish()
                break
            await self._hold(chunk)
            if not self._client_ended:
                await self._reply(chunk)
        if self._drops_replies:
            reset_stream(self._to_client)
            raise CutError
        await self._faults.flow.wait()
        if not self._client_ended:
            self._to_client.write_eof()

    async def _hold(self, chunk: bytes) -> None:
        self._traffic.held += len(chunk)
        try:
            if self._faults.delay:
                await asyncio.sleep(self._faults.delay)
            await self._faults.flow.wait()
        finally:
            self._traffic.held -= len(chunk)

    async def _reply(self, chunk: bytes) -> None:
        left = self.reply_bytes_left
        if left is not None:
            chunk = chunk[:left]
            self.reply_bytes_left = left - len(chunk)
        self._traffic.to_client += len(chunk)
        self._to_client.write(chunk)
        await self._to_client.drain()
        if self.reply_bytes_left == 0:
            raise CutError

    async def _let_server_finish(self) -> None:
        """End the requests and wait until the server, having done them all, ends the link."""
        self._tasks[0].cancel()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_DROP_GRACE):
                self._to_server.write_eof()
                while await self._from_server.read(_CHUNK):
                    pass


def reset_stream(writer: asyncio.StreamWriter) -> None:
    """Close with RST, dropping what was not sent yet."""
    sock: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
