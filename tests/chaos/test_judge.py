"""The judge of the failovers sees each kind of damage."""

from collections import Counter
from dataclasses import replace
from threading import Event, Thread

import pytest
from tests.chaos.bank import OPENING_BALANCE, Books, Payment
from tests.chaos.lanes import WRITERS, Commit, Failure, Lane
from tests.chaos.outcome import Outcome, Times, judge
from tests.chaos.report import Row, breaches, plot, quantile, rows_of, table, totals
from tests.chaos.run import Run
from tests.chaos.scenarios import RECOVERY

from datakit.errors import CommitUnknownError

TIMES = Times(fault=10.0, accepts=11.0, end=20.0)


class Paper(Lane):
    """A lane of two writers that never ran."""

    claims = True

    def __init__(self, *commits: Commit, asks: bool = False) -> None:
        super().__init__("paper", writers=2)
        self.commits += commits
        self.asks = asks

    def close(self) -> None:
        pass


def books(*payments: int, total: int = 2 * OPENING_BALANCE) -> Books:
    return Books(Counter(payments), total)


FINE = (Commit(0, 1, 9.0, 9.5), Commit(0, 2, 9.8, 11.2), Commit(1, 3, 11.5, 11.6))


def test_a_clean_run_has_no_damage_and_the_wait_begins_with_the_new_writer() -> None:
    outcome = judge(Paper(*FINE), books(1, 2, 3), (), TIMES)
    assert (outcome.damage, outcome.acknowledged) == (0, 3)
    assert outcome.recovery == [0.1, 0.2]


def test_a_payment_that_is_not_in_the_books_is_lost() -> None:
    assert judge(Paper(*FINE), books(1, 3), (), TIMES).lost == 1


def test_a_payment_that_only_the_old_primary_had_is_the_server_s_loss() -> None:
    outcome = judge(Paper(*FINE), books(1, 3), {2}, TIMES)
    assert (outcome.lost, outcome.lost_by_server, outcome.damage) == (0, 1, 0)


def test_a_payment_is_doubled_though_nobody_was_told_of_it() -> None:
    assert judge(Paper(*FINE), books(1, 2, 3, 4, 4), (), TIMES).doubled == 1


def test_money_out_of_nothing_is_torn() -> None:
    assert judge(Paper(*FINE), books(1, 2, 3, total=5), (), TIMES).damage > 0


def test_a_writer_that_had_to_be_helped_is_away() -> None:
    late = Commit(1, 3, 9.0, 20.5)
    assert judge(Paper(*FINE[:2], late), books(1, 2, 3), (), TIMES).away == 1


def test_a_writer_that_never_finishes_is_damage() -> None:
    lane, done = Paper(*FINE), Event()
    lane._threads.append(Thread(target=done.wait))
    lane.start()
    assert judge(lane, books(1, 2, 3), (), TIMES).damage == 1
    done.set()
    lane.join(10)
    assert judge(lane, books(1, 2, 3), (), TIMES).damage == 0


@pytest.mark.parametrize("asks", [True, False])
def test_a_commit_that_nobody_knows_is_an_error_only_where_it_was_to_be_settled(asks: bool) -> None:
    lane = Paper(*FINE, asks=asks)
    lane.failures.append(Failure(0, 4, 10.5, CommitUnknownError("lost")))
    outcome = judge(lane, books(1, 2, 3), (), TIMES)
    assert (outcome.unknown, sum(outcome.errors.values())) == ((1, 0) if asks else (0, 1))
    assert outcome.error_times == ([] if asks else [0.5])


def test_a_payment_moves_money_and_makes_none() -> None:
    first, second, _ = Payment(7, source=3, target=1, amount=5).statements("paper")
    assert "+ 5 " in first
    assert "id = 1" in first
    assert "+ -5 " in second
    assert "id = 3" in second


def outcome(
    lane: str, *, claims: bool, errors: int = 0, recovery: tuple[float, ...] = ()
) -> Outcome:
    return replace(
        judge(Paper(*FINE), books(1, 2, 3), (), TIMES),
        lane=lane,
        claims=claims,
        writers=WRITERS,
        errors={"Error": errors} if errors else {},
        recovery=list(recovery),
    )


def test_controls_without_damage_make_a_pass_worthless() -> None:
    harmed = outcome("control", claims=False, errors=1)
    spared = outcome("control", claims=False)
    ours = outcome("datakit", claims=True)
    assert breaches([Run("pg18", "kill", 1, 0.5, [ours, harmed])]) == []
    assert breaches([Run("pg18", "kill", 1, 0.5, [ours, spared])]) == [
        "pg18, kill: the controls show no damage"
    ]


def test_datakit_s_damage_is_told_with_its_seed() -> None:
    run = Run("pg18", "kill", 77, 0.5, [outcome("datakit", claims=True, errors=1)])
    assert breaches([run]) == ["pg18, kill, seed 77: datakit: {'Error': 1}"]


def test_being_slower_than_the_wrapper_is_a_breach() -> None:
    theirs = outcome("AWS wrapper", claims=False, recovery=(0.05, 0.06, 0.07))
    fast = outcome("datakit", claims=True, recovery=(0.01, 0.05, 0.24))
    slow = outcome("datakit", claims=True, recovery=(0.01, 0.07, 0.26))
    assert breaches([Run("pg18", RECOVERY, 1, 0.5, [theirs, fast])]) == []
    assert len(breaches([Run("pg18", RECOVERY, 1, 0.5, [theirs, slow])])) == 2


def test_quantiles_are_values_that_were_seen() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], q) for q in (0, 50, 99, 100)] == [1.0, 2.0, 4.0, 4.0]


def test_runs_of_one_lane_are_one_row_of_the_table_and_one_line_of_the_plot() -> None:
    ours = [outcome("datakit", claims=True, recovery=(0.1, seconds)) for seconds in (0.2, 0.3)]
    runs = [Run("pg18", "kill", seed, 0.5, [each]) for seed, each in enumerate(ours)]
    rows = rows_of(runs)
    assert rows == [Row("pg18", "kill", "datakit", ours)]
    assert "| pg18 | kill | datakit | 2 | 6 | 0 |" in table(rows)
    assert "| pg18 | all | datakit | 2 | 6 | 0 |" in table(totals(runs))
    assert plot(rows).count('class="own" x1=') == 1
