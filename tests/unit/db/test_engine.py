"""What is refused when an engine is made, in one clear line, and what is passed on."""

import pytest
from sqlalchemy.pool import NullPool, QueuePool

from datakit import AsyncResolver, Resolver, create_async_engine, create_engine
from datakit.errors import ConfigError

URL = "postgresql+psycopg://app:s3cret@db.example/shop"


@pytest.mark.parametrize("make", [create_engine, create_async_engine])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url s3cret", "expected postgresql"),
        ("", "expected postgresql"),
        ("postgresql+nonsense://app:s3cret@h/d", "expected postgresql"),
        ("sqlite:///shop.db", r"sqlite\+pysqlite is not supported"),
        ("mysql+mysqldb://app:s3cret@h/d", "mysql"),
        ("postgresql+psycopg://app:s3cret@a,b/d", "several hosts"),
        ("postgresql+psycopg://app:s3cret@/d?host=a,b:5432", "several hosts"),
        ("postgresql+psycopg://app:s3cret@a/d?host=b", "write all of them"),
        ("postgresql+psycopg://app:s3cret@/d?host=a:x", "expected host or host:port"),
        ("postgresql+psycopg://app:s3cret@/d?host=/run&host=b", "Unix socket"),
    ],
)
def test_a_url_that_cannot_work_is_one_line_that_says_what_to_do(
    make: object, url: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(url)  # type: ignore[operator]
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_driver_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mysql\+aiomysql is a driver for create_async_engine"):
        create_engine("mysql+aiomysql://app:s3cret@h/d")
    with pytest.raises(ConfigError, match=r"mysql\+pymysql is a driver for create_engine"):
        create_async_engine("mysql+pymysql://app:s3cret@h/d")


def test_the_wrong_kind_of_resolver_is_refused() -> None:
    with pytest.raises(ConfigError, match="datakit Resolver"):
        create_engine(URL, resolver=AsyncResolver(["127.0.0.1"]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="datakit AsyncResolver"):
        create_async_engine(URL, resolver=Resolver(["127.0.0.1"]))  # type: ignore[arg-type]


def test_the_users_keywords_win() -> None:
    engine = create_engine(URL, pool_size=3, pool_recycle=60, pool_use_lifo=False)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.size() == 3
    assert create_engine(URL, poolclass=NullPool).pool.__class__ is NullPool


def test_no_password_in_the_repr() -> None:
    assert "s3cret" not in repr(create_engine(URL))
