"""What a cold process pays before its first useful work: python -P benchmarks/cold_start.py

Each figure is of a fresh process that times itself, from after its interpreter's start; the
processes of all contestants alternate, so that a busy machine disturbs them alike. Bytecode is
compiled beforehand, as an installed package's is. A PostgreSQL of its own is started.
"""

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

from datakit.testing import PostgresCluster

ROUNDS = 15

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "no-secret",
    "AWS_REGION": "eu-west-1",
}

ENTRY_POINTS = (
    "create_engine", "create_async_engine", "transaction", "Cache", "Resolver", "RetryPolicy",
    "IamAuth", "deadline", "events",
)  # fmt: skip

TOKEN = """
from datakit.auth import rds_token
rds_token("shop.proxy-abc.eu-west-1.rds.amazonaws.com", 5432, "app")
"""
BOTO3_TOKEN = """
import boto3
boto3.client("rds", region_name="eu-west-1").generate_db_auth_token(
    "shop.proxy-abc.eu-west-1.rds.amazonaws.com", 5432, "app"
)
"""
PLAIN_QUERY = """
from sqlalchemy import create_engine, text
with create_engine({url!r}).connect() as conn:
    conn.scalar(text("SELECT 1"))
"""
QUERY = """
from datakit.aws_lambda import lambda_engine
from sqlalchemy import text
with lambda_engine({url!r}, auth=None).connect() as conn:
    conn.scalar(text("SELECT 1"))
"""


@dataclass(frozen=True)
class Work:
    """What a fresh process does: `before` untimed, then `code`."""

    code: str
    before: str = ""

    def milliseconds(self) -> float:
        program = (
            f"{self.before}\nfrom time import perf_counter\nstart = perf_counter()\n{self.code}\n"
            "print((perf_counter() - start) * 1e3)"
        )
        command = [sys.executable, "-P", "-c", program]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        return float(done.stdout)


def compare(title: str, contestants: dict[str, Work]) -> None:
    """Run the contestants in turns and print their best and median beside the first one's."""
    for work in contestants.values():
        work.milliseconds()  # compiles, and warms the files up
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, work in contestants.items():
            figures[name].append(work.milliseconds())
    first = next(iter(figures.values()))
    print(f"\n{title}")
    for name, found in figures.items():
        best, median = min(found), statistics.median(found)
        of_best, of_median = best / min(first), median / statistics.median(first)
        print(
            f"  {name:<40} best {best:7.1f} ms {of_best:6.2f} x"
            f"   median {median:7.1f} ms {of_median:6.2f} x"
        )


def main() -> None:
    imports = {"import datakit": Work("import datakit")}
    for name in ENTRY_POINTS:
        imports[f"from datakit import {name}"] = Work(f"from datakit import {name}")
    imports["import sqlalchemy"] = Work("import sqlalchemy")
    compare("import, beyond bare Python", imports)
    compare(
        "first IAM token, beyond import sqlalchemy",
        {
            "datakit rds_token": Work(TOKEN, "import sqlalchemy"),
            "boto3 client": Work(BOTO3_TOKEN, "import sqlalchemy"),
        },
    )
    with PostgresCluster(standbys=0) as cluster:
        url = cluster.url()
        compare(
            "a cold process to its first query",
            {
                "SQLAlchemy and psycopg": Work(PLAIN_QUERY.format(url=url)),
                "datakit lambda_engine": Work(QUERY.format(url=url)),
            },
        )


if __name__ == "__main__":
    main()
