"""Memcached's replies are cut out of the stream however it is split, and nothing else is taken."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache.backends.base import RefusedError
from datakit.cache.backends.memcached_dialect import NonsenseError, Replies, Reply

LINES = st.one_of(
    st.sampled_from([b"HD", b"EN", b"NS", b"EX", b"NF", b"HD c12", b"EN t-1"]),
    st.sampled_from([b"SERVER_ERROR out of memory storing object", b"ERROR"]),
)
VALUES = st.one_of(st.binary(max_size=60), st.sampled_from([b"\r\n", b"EN\r\n", b"VA 3\r\n"]))
STREAMS = st.lists(st.one_of(LINES, VALUES.map(lambda v: (v,))), max_size=8)


def sent(items: list[bytes | tuple[bytes]]) -> bytes:
    return b"".join(
        item + b"\r\n" if isinstance(item, bytes) else b"VA %d c7\r\n%b\r\n" % (len(item[0]), *item)
        for item in items
    )


@given(items=STREAMS, data=st.data())
def test_a_stream_split_anywhere_gives_the_same_replies(
    items: list[bytes | tuple[bytes]], data: st.DataObject
) -> None:
    stream = sent(items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    replies = Replies()
    found = [
        reply
        for begin, end in pairwise([0, *cuts, len(stream)])
        for reply in replies.after(stream[begin:end])
    ]
    assert len(found) == len(items)
    for item, reply in zip(items, found, strict=True):
        if isinstance(item, tuple):
            assert reply == Reply(b"VA", [str(len(item[0])).encode(), b"c7"], item[0])
        elif b"ERROR" in item:
            assert isinstance(reply, RefusedError)
        else:
            code, *flags = item.split(b" ")
            assert reply == Reply(code, flags, None)
    replies.check_end(len(items), len(found))


@pytest.mark.parametrize(
    "stream", [b"HTTP/1.1 400 Bad Request\r\n", b"VA\r\n", b"VA x\r\n", b"\r\n", b"x" * 2049]
)
def test_what_is_no_reply_is_refused(stream: bytes) -> None:
    with pytest.raises(NonsenseError):
        Replies().after(stream)


@pytest.mark.parametrize("more", [b"HD\r\n", b"H", b"VA 3\r\nab"])
def test_what_was_not_asked_for_is_refused(more: bytes) -> None:
    replies = Replies()
    found = replies.after(b"EN\r\n" + more)
    with pytest.raises(NonsenseError):
        replies.check_end(1, len(found))
