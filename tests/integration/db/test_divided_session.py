"""A session with tables on several engines, whose COMMIT is several."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from datakit import create_engine, transaction
from datakit.db.exactly_once import TABLE, create_table
from datakit.errors import CommitUnknownError
from datakit.testing import PostgresNode


class Base(DeclarativeBase):
    pass


class Here(Base):
    __tablename__ = "here"
    id: Mapped[int] = mapped_column(primary_key=True)


class There(Base):
    __tablename__ = "there"
    id: Mapped[int] = mapped_column(primary_key=True)


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'conflict' USING errcode = '40001'; END $$;
CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON there DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def engines(postgres: PostgresNode) -> Iterator[tuple[Engine, Engine]]:
    """Two engines with tables, of which `there` refuses every COMMIT as a conflict."""
    one, two = create_engine(postgres.url()), create_engine(postgres.url())
    Base.metadata.create_all(one)
    with one.begin() as conn:
        conn.execute(text(REFUSE))
    yield one, two
    Base.metadata.drop_all(one)
    with one.begin() as conn:
        conn.execute(text("DROP FUNCTION refuse"))
    one.dispose()
    two.dispose()


@pytest.mark.parametrize("exactly_once", [False, True])
def test_it_is_not_run_again_after_a_commit_of_which_half_may_stand(
    engines: tuple[Engine, Engine], exactly_once: bool
) -> None:
    """SQLAlchemy commits on one after the other, in no particular order."""
    one, two = engines
    create_table(one)
    runs = 0
    with pytest.raises(CommitUnknownError) as caught:
        for tx in transaction(sessionmaker(one, binds={There: two}), exactly_once=exactly_once):
            with tx as session:
                runs += 1
                session.add_all([Here(), There()])
    TABLE.drop(one)
    assert runs == 1
    assert any("several databases" in note for note in caught.value.__notes__)
