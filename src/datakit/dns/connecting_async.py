"""The first of several addresses that takes a connection, for tasks. Source: RFC 8305."""

import asyncio
import socket
from collections.abc import Sequence

from datakit.dns.addresses import Address, interleaved
from datakit.dns.connecting import HEAD_START, Failed, answered, new_socket, refused
from datakit.resilience.deadlines import deadline, over


async def race(
    addresses: Sequence[Address],
    name: str,
    failed: Failed,
    *,
    greeting: bytes | None = None,
    head_start: float = HEAD_START,
) -> socket.socket:
    """Return a non-blocking socket connected to the first of `addresses` that takes it.

    greeting, head_start: as for threads.

    Raises:
        OSError: none does.
        DeadlineExceededError: none did in time.
    """
    queue = interleaved(addresses)
    running: dict[asyncio.Task[socket.socket], Address] = {}
    errors: list[tuple[Address, OSError]] = []
    try:
        while queue or running:
            if queue:
                address = queue.pop(0)
                running[asyncio.create_task(_connect(address, greeting))] = address
            for task in await _ended(running, head_start if queue else None, name, failed):
                address = running.pop(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                errors.append((address, error))
                failed(address)
        raise refused(name, errors)
    finally:
        await _give_up(running)


async def _connect(address: Address, greeting: bytes | None) -> socket.socket:
    loop = asyncio.get_running_loop()
    sock, where = new_socket(address)
    try:
        await loop.sock_connect(sock, where)
        if greeting is not None:
            await loop.sock_sendall(sock, greeting)
            answered(await loop.sock_recv(sock, 1))
    except BaseException:
        sock.close()
        raise
    return sock


async def _ended(
    running: "dict[asyncio.Task[socket.socket], Address]",
    head_start: float | None,
    name: str,
    failed: Failed,
) -> "set[asyncio.Task[socket.socket]]":
    left = deadline.remaining()
    waits = [seconds for seconds in (left, head_start) if seconds is not None]
    done, _ = await asyncio.wait(
        running, timeout=min(waits, default=None), return_when=asyncio.FIRST_COMPLETED
    )
    if not done and left is not None and deadline.remaining() == 0:
        for address in running.values():
            failed(address)
        silent = ", ".join(address.ip for address in running.values())
        raise over(f"connecting to {name}; no answer from {silent}")
    return done


async def _give_up(running: "dict[asyncio.Task[socket.socket], Address]") -> None:
    for task in running:
        task.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()  # it won in the same instant as another
