"""Every Python example of the README and the docs runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from datakit.testing import DnsServer, PostgresCluster, RedisServer

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


EXAMPLES = [
    pytest.param(code, id=f"{page.relative_to(ROOT / 'docs')}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page), 1)
]


def run(code: str) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_of_the_docs_runs(code: str) -> None:
    run(code)


def test_the_readmes_example_runs_where_its_names_exist(
    redis_server: RedisServer, dns_server: DnsServer
) -> None:
    """Its hosts are found through a resolver of the test's; nothing else is added."""
    (code,) = blocks(ROOT / "README.md")
    with PostgresCluster(standbys=0, database="shop") as cluster:
        dns_server.set("db.shop.internal", "A", [cluster.primary.address])
        code = code.replace("@db.shop.internal/", f"@db.shop.internal:{cluster.port}/")
        code = code.replace("redis://cache.shop.internal:6379", redis_server.url)
        code = code.replace('/shop")', f'/shop", resolver=Resolver(["{dns_server.endpoint}"]))')
        tables = (
            "from datakit import Resolver\n"
            "import sqlalchemy\n"
            f"admin = sqlalchemy.create_engine({cluster.url()!r})\n"
            "with admin.begin() as c:\n"
            "    c.execute(sqlalchemy.text('CREATE TABLE products (id int, name text)'))\n"
            "    c.execute(sqlalchemy.text(\"INSERT INTO products VALUES (7, 'tea')\"))\n"
            "    c.execute(sqlalchemy.text('CREATE TABLE orders (product_id int)'))\n"
        )
        checks = (
            "\nassert get_product(7) == get_product(7) == 'tea'\n"
            "with admin.begin() as c:\n"
            "    assert c.scalar(sqlalchemy.text('SELECT count(*) FROM orders')) == 1\n"
            "engine.dispose(); admin.dispose(); cache.close()\n"
        )
        run(tables + code + checks)
