"""What a type checker sees of a Lambda handler. Run by mypy and pyright, not by pytest."""

from typing import assert_type

from datakit.aws_lambda import handler

Event = dict[str, str]


@handler
def plain(event: Event, context: object) -> str:
    return event["id"]


@handler
async def awaited(event: Event, context: object) -> str:
    return event["id"]


@handler(reserve=1.0)
def reserved(event: Event, context: object) -> int:
    return len(event)


@handler(reserve=1.0)
async def reserved_awaited(event: Event, context: object) -> int:
    return len(event)


def check_handlers() -> None:
    assert_type(plain({}, None), str)
    assert_type(awaited({}, None), str)
    assert_type(reserved({}, None), int)
    assert_type(reserved_awaited({}, None), int)
