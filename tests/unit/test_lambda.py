"""`aws_lambda` without a server: one engine for each URL, a deadline by the context."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from threading import Barrier
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from sqlalchemy import NullPool, QueuePool, make_url

from datakit import IamAuth, SecretAuth, deadline
from datakit.aws_lambda import handler, lambda_async_engine, lambda_engine
from datakit.db import describe
from datakit.errors import ConfigError

from .auth.test_iam import variables_of_datakit

URL = "postgresql+psycopg://app@shop.proxy-abc.eu-west-1.rds.amazonaws.com/shop"


class Context:
    """Of an invocation that has 3 s left."""

    def get_remaining_time_in_millis(self) -> int:
        return 3_000


def remaining(event: object, context: object) -> float | None:
    return deadline.remaining()


def left(remaining: float | None) -> float:
    assert remaining is not None
    return remaining


def test_one_engine_for_a_url_and_its_options() -> None:
    engine = lambda_engine(URL)
    assert lambda_engine(URL) is engine
    assert lambda_engine(make_url(URL), auth="iam") is engine
    assert lambda_engine(URL, pool_timeout=3) is not engine
    assert lambda_engine(URL, pool_timeout=3) is lambda_engine(URL, pool_timeout=3)
    assert lambda_engine(f"{URL}2") is not engine
    assert lambda_async_engine(URL).sync_engine is not engine
    assert lambda_async_engine(URL) is lambda_async_engine(URL)


def test_options_that_cannot_be_hashed_are_told_apart() -> None:
    options: list[dict[str, object]] = [{"application_name": name} for name in ("a", "b", "a")]
    engines = [lambda_engine(URL, connect_args=each) for each in options]
    assert engines[0] is engines[2]
    assert engines[0] is not engines[1]


def test_auth_objects_made_in_each_invocation_lead_to_one_engine() -> None:
    assert lambda_engine(URL, auth=IamAuth()) is lambda_engine(URL, auth=IamAuth())
    assert lambda_engine(URL, auth=IamAuth()) is not lambda_engine(URL, auth=IamAuth(port=1))
    assert lambda_engine(URL, SecretAuth("a")) is lambda_engine(URL, auth=SecretAuth("a"))
    assert lambda_engine(URL, SecretAuth("a")) is not lambda_engine(URL, SecretAuth("b"))


def test_an_option_that_is_changed_later_is_another() -> None:
    args = {"application_name": "first"}
    engine = lambda_engine(URL, connect_args=args)
    args["application_name"] = "second"
    assert lambda_engine(URL, connect_args=args) is not engine


@pytest.mark.parametrize("form", [str, make_url])
@pytest.mark.parametrize("make", [lambda_engine, lambda_async_engine])
def test_a_refused_url_shows_no_password(
    make: Callable[..., Any], form: Callable[..., Any]
) -> None:
    url = form(URL.replace("app@", "app:canary@"))
    with pytest.raises(ConfigError, match="nonsense") as caught:
        make(url, auth=None, endpoint="nonsense")
    assert "canary" not in variables_of_datakit(caught.value)


def test_threads_that_ask_at_once_get_the_same_engine() -> None:
    together = Barrier(8)

    def ask(_: int) -> object:
        together.wait()
        return lambda_engine(f"{URL}-threads")

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1


def test_the_profile_is_lambdas_unless_another_is_given() -> None:
    engine = lambda_engine(URL)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.size() == 1
    assert engine.pool._max_overflow == 0
    assert "endpoint: lambda" in describe(engine)
    assert "IamAuth" in describe(engine)
    assert "endpoint: proxy" in describe(lambda_engine(URL, endpoint="proxy"))
    assert type(lambda_engine(URL, poolclass=NullPool).pool) is NullPool


def test_a_url_that_cannot_work_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be used"):
            lambda_engine("nonsense")


def test_the_handler_has_what_the_context_has_left_less_the_reserve() -> None:
    assert 2.3 < left(handler(remaining)({}, Context())) <= 2.5
    assert 0.8 < left(handler(reserve=2.0)(remaining)({}, Context())) <= 1.0
    assert left(handler(reserve=9.0)(remaining)({}, Context())) == 0.0
    assert deadline.remaining() is None


def test_a_nearer_deadline_holds() -> None:
    with deadline(1.0):
        assert left(handler(remaining)({}, Context())) <= 1.0


def test_a_context_that_knows_no_time_bounds_nothing() -> None:
    assert handler(remaining)({}, None) is None


def test_a_mock_of_a_context_bounds_nothing() -> None:
    for context in (Mock(), MagicMock()):
        assert handler(remaining)({}, context) is None


def test_the_context_is_found_wherever_it_is_passed() -> None:
    @handler
    def handle(*args: object, **kwargs: object) -> float | None:
        return deadline.remaining()

    assert left(handle({}, Context(), "what a decorator adds")) > 2.3
    assert left(handle(event={}, context=Context())) > 2.3
    assert left(handle({}, lambda_context=Context())) > 2.3
    assert handle() is None


def test_a_generator_is_refused() -> None:
    def pages(event: object, context: object) -> Iterator[int]:
        yield 1

    async def apages(event: object, context: object) -> AsyncIterator[int]:
        yield 1

    for function in (pages, apages):
        with pytest.raises(ConfigError, match=r"pages.*generator"):
            handler(function)


async def test_an_async_handler_where_a_loop_runs_says_what_to_await() -> None:
    @handler
    async def handle(event: int, context: object) -> int:
        return event + 1

    with pytest.raises(ConfigError, match="__wrapped__"):
        handle(1, None)
    assert await inspect.unwrap(handle)(1, None) == 2


def test_a_method_is_a_handler_too() -> None:
    class Shop:
        @handler
        def handle(self, event: object, context: object) -> float | None:
            return remaining(event, context)

    assert left(Shop().handle({}, Context())) > 2.3


def test_the_function_keeps_its_signature_and_can_be_reached() -> None:
    @handler(reserve=1)
    def handle(event: dict[str, str], context: Context) -> str:
        """Answer."""
        return event["id"]

    assert handle({"id": "7"}, Context()) == "7"
    assert list(inspect.signature(handle).parameters) == ["event", "context"]
    assert (handle.__name__, handle.__doc__) == ("handle", "Answer.")
    assert inspect.unwrap(handle) is not handle


def test_what_the_function_raises_goes_straight_up() -> None:
    @handler
    def handle(event: object, context: object) -> None:
        raise LookupError("no such product")

    with pytest.raises(LookupError, match="no such product"):
        handle({}, Context())


def test_a_reserve_that_is_no_time_is_named() -> None:
    with pytest.raises(ConfigError, match="reserve=-1"):
        handler(reserve=-1)
    with pytest.raises(ConfigError, match="expected a function"):
        handler("module.handle")  # type: ignore[call-overload]


def test_an_async_handler_behind_a_plain_decorator_is_run() -> None:
    async def work(event: int, context: object) -> int:
        return event + 1

    @wraps(work)
    def traced(*args: Any) -> Any:
        return work(*args)

    class Handler:
        async def __call__(self, event: int, context: object) -> int:
            return event + 2

    assert handler(traced)(1, None) == 2
    assert handler(Handler())(1, None) == 3
