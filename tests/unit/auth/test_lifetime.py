"""No token is used that its server would refuse for its age, whatever the clocks do."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datakit.auth.lifetime import CLOCK_SKEW, TOKEN_EXPIRES, Token, is_usable, life_of

WALL = 1_700_000_000.0
skews = st.floats(-CLOCK_SKEW, CLOCK_SKEW)
ages = st.floats(0.0, 2_000.0)
jumps = st.sampled_from([-300.0, 300.0])
ends = st.one_of(st.none(), st.floats(WALL - 100.0, WALL + 2_000.0))


def made(expires_at: float | None = None, *, at: float = 0.0, wall: float = WALL) -> Token:
    return Token("token", at, wall, life_of(expires_at, wall))


@given(skew=skews, age=ages, ends_at=ends)
@example(skew=300.0, age=600.0, ends_at=None)
@example(skew=300.0, age=599.9, ends_at=None)
def test_a_used_token_is_valid_by_a_server_clock_that_is_minutes_off(
    skew: float, age: float, ends_at: float | None
) -> None:
    if is_usable(made(ends_at), age, WALL + age):
        by_server = WALL + age + skew
        assert -300.0 <= by_server - WALL < TOKEN_EXPIRES


@given(age=ages, ends_at=st.floats(WALL - 100.0, WALL + 2_000.0))
@example(age=10.0, ends_at=WALL + 10.0)
def test_no_token_outlives_the_credentials_behind_it(age: float, ends_at: float) -> None:
    if is_usable(made(ends_at), age, WALL + age):
        assert WALL + age < ends_at


@given(age=ages)
@example(age=599.0)
def test_a_token_is_used_for_ten_minutes(age: float) -> None:
    """It is thrown away no earlier than it must be."""
    assert is_usable(made(), age, WALL + age) == (age < 600.0)


@given(frozen=ages, ends_at=ends)
def test_a_process_that_was_frozen_sees_its_age_on_the_wall(
    frozen: float, ends_at: float | None
) -> None:
    """The monotonic clock stands still while a Lambda is frozen."""
    usable = is_usable(made(ends_at), 0.0, WALL + frozen)
    assert usable == (frozen < life_of(ends_at, WALL))


@given(before=st.floats(0.0, 700.0), after=st.floats(0.0, 700.0), jump=jumps)
@example(before=400.0, after=250.0, jump=-300.0)
@example(before=10.0, after=10.0, jump=-300.0)
@example(before=350.0, after=0.0, jump=300.0)
def test_a_wall_clock_that_is_set_lengthens_no_life(
    before: float, after: float, jump: float
) -> None:
    """It is set by five minutes, back or forward, `before` seconds after the token was made."""
    age = before + after
    if is_usable(made(), age, WALL + age + jump):
        assert age < 600.0
        assert age + jump < 600.0


@given(age=st.floats(0.0, 598.0))
@example(age=0.0)
def test_a_token_dated_by_a_wrong_clock_is_made_anew(age: float) -> None:
    """A server takes none from the future: the clock that dated it was five minutes ahead."""
    token = made(wall=WALL + 300.0)
    assert is_usable(token, age, WALL + age) == (age > 299.0)
    assert is_usable(token, 5.0, WALL + 305.0)


@pytest.mark.parametrize(
    ("ends_in", "life"), [(None, 600.0), (1e6, 600.0), (600.0, 600.0), (1.5, 1.5), (-1e6, 0.0)]
)
def test_a_life_is_ten_minutes_or_what_the_credentials_have_left(
    ends_in: float | None, life: float
) -> None:
    assert life_of(None if ends_in is None else WALL + ends_in, WALL) == life


def test_a_token_of_credentials_that_have_ended_is_never_kept() -> None:
    assert not is_usable(made(WALL - 1.0), 0.0, WALL)


def test_a_token_is_not_shown() -> None:
    assert "token'" not in repr(made())
    assert "'token" not in repr(made())
