"""What happens to the servers, one named function each, and how the clients reach them there."""

from collections.abc import Callable
from time import sleep
from typing import NamedTuple

from tests.chaos.lanes import WRITERS
from tests.chaos.stage import Stage
from tests.chaos.ways import Way

POSTGRES = ("pg15", "pg18")
RECOVERY = "recovery"
"""An Aurora whose record moves at once, with one lane a run: how soon each is back."""

ALL = (*POSTGRES, "mariadb")
ASYNCHRONOUS = ("pg18 async", "mariadb async")


def kill(stage: Stage) -> None:
    """The primary's machine crashes."""
    stage.fault()
    stage.old.kill()
    stage.promote()


def kill_ahead(stage: Stage) -> None:
    """The primary crashes with payments that no standby has."""
    stage.cut_replication()
    sleep(stage.rng.uniform(0.1, 0.4))
    kill(stage)


def stop(stage: Stage) -> None:
    """The primary's processes stop and its kernel lives: no packet says that it is gone."""
    stage.fault()
    stage.old.stop_process()
    stage.promote()


def stop_and_fence(stage: Stage) -> None:
    """The primary's processes stop, and before another one is made, they are killed."""
    stage.fault()
    stage.old.stop_process()
    sleep(stage.rng.uniform(0.1, 0.5))
    stage.old.kill()
    stage.promote()


def black_hole(stage: Stage) -> None:
    """No packet reaches the primary or comes back; it lives, and is a second primary then."""
    stage.fault()
    stage.faults[stage.old.address].black_hole()
    stage.promote()


def demote(stage: Stage) -> None:
    """The primary is made read only, keeps its idle connections and takes new ones."""
    stage.fault()
    stage.old.set_read_only()
    stage.promote()


def restart_proxy(stage: Stage) -> None:
    """What stands before the server is killed and started again."""
    stage.fault()
    stage.restart_proxy()


def lose_commit(stage: Stage) -> None:
    """COMMITs are executed and their replies lost; the server knows of nothing."""
    stage.fault_harms_no_server()
    stage.faults[stage.old.address].drop_reply(b"COMMIT", times=3 * WRITERS)


def flap(stage: Stage) -> None:
    """The primary is made read only and lives; the record goes new, old, new."""
    stage.fault()
    stage.old.set_read_only()
    stage.promote()
    for node in (stage.old, stage.cluster.primary):
        sleep(stage.rng.uniform(0.1, 0.6))
        stage.point_to(node)


def kill_record_late(stage: Stage) -> None:
    """The primary crashes, and the cluster's name follows a second or two later, or never."""
    stage.fault()
    stage.old.kill()
    stage.promote_unnoticed()
    if stage.rng.random() < 0.5:
        sleep(stage.rng.uniform(1.0, 2.0))
        stage.point_to(stage.cluster.primary)


class Scenario(NamedTuple):
    """One row of the table below. sites: the kinds of servers that it is played on."""

    play: Callable[[Stage], None]
    way: Callable[[Stage], Way]
    sites: tuple[str, ...] = ALL


SCENARIOS = {
    "kill": Scenario(kill, Stage.by_hosts),
    "kill, standby behind": Scenario(kill_ahead, Stage.by_hosts, ASYNCHRONOUS),
    "kill, by name": Scenario(kill, Stage.by_name),
    "stop": Scenario(stop, Stage.by_hosts),
    "stop, fenced": Scenario(stop_and_fence, Stage.by_name, ("pg18",)),
    "black hole": Scenario(black_hole, Stage.by_faults),
    "demote": Scenario(demote, Stage.by_hosts),
    "lost COMMIT": Scenario(lose_commit, Stage.by_faults),
    "name flaps": Scenario(flap, Stage.by_cluster_name),
    "PgBouncer": Scenario(restart_proxy, Stage.by_pgbouncer, POSTGRES),
    "HAProxy": Scenario(restart_proxy, Stage.by_haproxy, ("mariadb",)),
    "Aurora": Scenario(kill_record_late, Stage.by_topology, POSTGRES),
    RECOVERY: Scenario(kill, Stage.by_topology, ()),
}
