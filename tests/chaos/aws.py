"""The lane of the AWS Advanced Python Wrapper, as its manual has it used."""

from contextlib import suppress

import psycopg
from aws_advanced_python_wrapper import AwsWrapperConnection, release_resources
from aws_advanced_python_wrapper.errors import (
    FailoverSuccessError,
    TransactionResolutionUnknownError,
)
from tests.chaos.bank import Payment
from tests.chaos.lanes import WRITERS, ThreadLane
from tests.chaos.ways import Way

AWS = {"failover": "AWS wrapper", "failover_v2": "AWS wrapper v2"}
"""The lanes by their plugin: the manual's first, and what is on by default."""


class AwsLane(ThreadLane):
    """A connection a writer with the failover plugin, and the loop that its manual asks for.

    Source: aws-advanced-python-wrapper, docs/examples/PGFailover.py: both of its errors that tell
    of a new connection have the payment run again. It cannot tell a transaction that was committed.
    """

    def __init__(self, way: Way, plugin: str, *, writers: int = WRITERS) -> None:
        super().__init__(AWS[plugin], writers=writers)
        self._way = way
        self._plugin = plugin
        self._connections: dict[int, AwsWrapperConnection] = {}
        self._connect(0)  # alone: eight at once race in its start

    def pay(self, writer: int, payment: Payment) -> None:
        while True:
            try:
                connection = self._connections.get(writer) or self._connect(writer)
                with connection.cursor() as cursor:
                    for statement in payment.statements(self.name):
                        cursor.execute(statement)
                connection.commit()
            except (FailoverSuccessError, TransactionResolutionUnknownError):
                continue
            except Exception:
                self.leave(writer)
                raise
            else:
                return

    def leave(self, writer: int) -> None:
        connection = self._connections.pop(writer, None)
        if connection is not None:
            with suppress(Exception):  # it may be broken
                connection.close()

    def close(self) -> None:
        release_resources()

    def _connect(self, writer: int) -> AwsWrapperConnection:
        host, _, port = self._way.hosts[0].rpartition(":")
        self._connections[writer] = connection = AwsWrapperConnection.connect(
            self._connect_by_address,
            f"host={host} port={port} dbname=app user=app",
            plugins=self._plugin,
            wrapper_dialect="aurora-pg",
            wrapper_driver_dialect="psycopg",
        )
        return connection

    def _connect_by_address(self, **keywords: object) -> object:
        """Connect as psycopg does, the name looked up as the machine's resolver would."""
        address = self._way.lookup(str(keywords["host"]))
        return psycopg.Connection.connect(**keywords, hostaddr=address)  # type: ignore[arg-type]
