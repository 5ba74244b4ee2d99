"""What is remembered does not grow, and is forgotten only when it must be."""

from datakit._bounded import BoundedDict


def test_it_holds_as_many_as_it_may() -> None:
    known: BoundedDict[int, str] = BoundedDict(3)
    for key in range(100):
        known[key] = "some"
        assert len(known) <= 3
        assert key in known
    assert list(known) == [99]


def test_a_key_that_it_knows_costs_no_other() -> None:
    known: BoundedDict[int, str] = BoundedDict(2)
    known[1] = known[2] = "old"
    known[1] = "new"
    assert known == {1: "new", 2: "old"}
