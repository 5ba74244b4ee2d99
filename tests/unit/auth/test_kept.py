"""Look-ups of credentials and secrets are shared, survive forks, and fail as AuthError."""

import asyncio
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datakit import SecretAuth, deadline
from datakit.auth import IamAuth, Login, rds, rds_token
from datakit.auth.credentials import DefaultCredentials
from datakit.auth.password import CalledAuth, KeptAuth, PasswordAuth
from datakit.errors import AuthError, DatakitError, DeadlineExceededError

DB = Login("shop.abc.eu-west-1.rds.amazonaws.com", 5432, "app")
ARN = "arn:aws:secretsmanager:eu-south-2:123456789012:secret:prod/shop-AbCdEf"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose `config` is the only source of credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


def ask_process(aws: Path, answer: str) -> Path:
    """Have a program tell the credentials; return the file in which it notes its runs."""
    program, runs = aws / "program", aws / "runs"
    program.write_text(f"#!/bin/sh\necho run >> {runs}\nsleep 0.2\necho '{answer}'\n")
    program.chmod(0o755)
    (aws / "config").write_text(f"[default]\ncredential_process = {program}\n")
    return runs


def credentials(expiration: str) -> str:
    return (
        '{"Version": 1, "AccessKeyId": "AKIDPROCESS", "SecretAccessKey": "canary", '
        f'"SessionToken": "canary", "Expiration": "{expiration}"}}'
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (credentials("2020-01-01T00:00:00Z"), "still expired"),
        ("nonsense with a canary", "could not be read: JSONDecodeError"),
        ('{"Version": 1, "AccessKeyId": "AKID"}', "Missing required key"),
    ],
    ids=["expired", "nonsense", "incomplete"],
)
def test_credentials_that_cannot_be_used_are_an_auth_error(
    aws: Path, answer: str, told: str
) -> None:
    ask_process(aws, answer)
    with pytest.raises(AuthError, match=told) as caught:
        IamAuth().login(DB)
    link: BaseException | None = caught.value
    while link is not None:
        assert "canary" not in f"{link} {vars(link)}"
        link = link.__cause__ or link.__context__


def test_threads_that_come_at_once_share_a_search_for_credentials(aws: Path) -> None:
    runs = ask_process(aws, credentials("2100-01-01T00:00:00Z"))
    source = DefaultCredentials()
    barrier = threading.Barrier(10)

    def come(_: int) -> str:
        barrier.wait(10)
        return source.load().access_key

    with ThreadPoolExecutor(10) as threads:
        assert Counter(threads.map(come, range(10))) == {"AKIDPROCESS": 10}
    assert runs.read_text() == "run\n"


def test_tokens_for_other_clients_share_a_search_for_credentials(
    aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ask_process(aws, credentials("2100-01-01T00:00:00Z"))
    monkeypatch.setattr(rds, "_credentials", DefaultCredentials())
    for user in ("app", "other"):
        assert f"DBUser={user}&" in rds_token(DB.host, DB.port, user)
    assert runs.read_text() == "run\n"


def test_the_dot_at_a_host_names_end_is_not_signed(
    aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows itself without it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    token = IamAuth().login(Login(f"{DB.host}.", 5432, "app")).password
    assert token is not None
    assert token.startswith(f"{DB.host}:5432/?")


def region_of(auth: SecretAuth) -> str:
    return str(auth._client.meta.region_name)


def test_the_region_of_a_secret_is_the_environments(
    aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda sets AWS_REGION, which botocore does not read."""
    (aws / "config").write_text("[default]\nregion = eu-west-3\n")
    assert region_of(SecretAuth("prod/shop")) == "eu-west-3"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert region_of(SecretAuth("prod/shop")) == "eu-central-1"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert region_of(SecretAuth("prod/shop")) == "eu-north-1"
    assert region_of(SecretAuth(ARN)) == "eu-south-2"
    assert region_of(SecretAuth("prod/shop", region="sa-east-1")) == "sa-east-1"


def test_a_forked_child_leaves_the_sockets_of_secrets_manager_to_its_parent(aws: Path) -> None:
    auth = SecretAuth(ARN)
    client = auth._client
    child = os.fork()
    if not child:
        os._exit("_client" in vars(auth))
    assert os.waitpid(child, 0)[1] == 0
    assert auth._client is client


def test_a_forked_child_finds_credentials_itself(aws: Path) -> None:
    ask_process(aws, credentials("2100-01-01T00:00:00Z"))
    source = DefaultCredentials()
    source.load()
    child = os.fork()
    if not child:
        os._exit(source._found is not None)
    assert os.waitpid(child, 0)[1] == 0
    assert source._found is not None


class Slow(KeptAuth):
    """Has a look-up that takes until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.begun = 0
        self.failure: DatakitError | None = None

    def login(self, login: Login) -> Login:
        self.begun += 1
        number = self.begun
        assert self.may_end.wait(20)
        if self.failure is not None:
            raise self.failure
        return Login(login.host, login.port, login.user, f"password {number}")

    def refused(self, login: Login, failures: int) -> float | None:
        self._start_over()
        return 0.0


async def test_fifty_tasks_that_wait_for_a_secret_leave_the_threads_to_others() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    auth = Slow()
    tasks = [asyncio.create_task(auth.alogin(DB)) for _ in range(50)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(lambda: "a thread of others") == "a thread of others"
    finally:
        auth.may_end.set()
    logins = await asyncio.gather(*tasks)
    assert {login.password for login in logins} == {"password 1"}


async def test_tasks_that_want_another_user_do_not_share() -> None:
    auth = Slow()
    auth.may_end.set()
    other = Login(DB.host, DB.port, "other")
    first, second = await asyncio.gather(auth.alogin(DB), auth.alogin(other))
    assert (first.user, second.user) == ("app", "other")
    assert first.password != second.password


async def test_tasks_share_a_failure_and_try_again_after_it() -> None:
    auth = Slow()
    auth.failure = AuthError("no such secret")
    auth.may_end.set()
    outcomes = await asyncio.gather(*(auth.alogin(DB) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AuthError] * 5
    assert auth.begun == 1
    auth.failure = None
    assert (await auth.alogin(DB)).password == "password 2"


async def test_who_was_refused_does_not_share_a_look_up_that_began_before() -> None:
    auth = Slow()
    before = asyncio.create_task(auth.alogin(DB))
    await asyncio.sleep(0)
    auth.refused(DB, 1)
    after = asyncio.create_task(auth.alogin(DB))
    await asyncio.sleep(0)
    auth.may_end.set()
    assert {(await before).password, (await after).password} == {"password 1", "password 2"}


def test_what_an_auth_was_made_with_tells_it_from_others() -> None:
    source = DefaultCredentials()
    assert IamAuth(region="a").made_with == IamAuth(region="a").made_with
    assert IamAuth(region="a").made_with != IamAuth(region="b").made_with
    assert IamAuth(credentials=source).made_with != IamAuth().made_with
    assert SecretAuth("a").made_with == SecretAuth("a").made_with
    assert SecretAuth("a").made_with != SecretAuth("b").made_with


@pytest.mark.parametrize("form", ["function", "coroutine", "kept"])
async def test_a_slow_password_ends_with_the_deadline_where_it_can(form: str) -> None:
    slow, may_end = Slow(), threading.Event()

    async def wait() -> str:
        return str(await asyncio.Event().wait())

    auth: PasswordAuth = {
        "function": CalledAuth(lambda: str(may_end.wait(20))),
        "coroutine": CalledAuth(wait),
        "kept": slow,
    }[form]
    try:
        async with asyncio.timeout(10):
            with deadline(0.05), pytest.raises(DeadlineExceededError):
                await auth.alogin(DB)
    finally:
        slow.may_end.set()
        may_end.set()
