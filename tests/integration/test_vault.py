"""Vault fills the environment before start, keeps its login alive, and never tells a value."""

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError, PipelineError, ServiceUnavailableError
from pipeline.settings import load_settings
from pipeline.vault import Vault, client, fill, variables
from tests.fakes.vault import KUBERNETES_ROLE, POD_TOKEN, ROLE_ID, ROOT, SECRET_ID, FakeVault, fake_vault
from tests.loglines import log_lines
from tests.processes import wait_until
from tests.unit.test_settings import REQUIRED

PASSWORD = "correct horse battery staple"
SECRET = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "alice",
    "KAFKA_SASL_PASSWORD": PASSWORD,
}


@pytest.fixture
def server() -> Iterator[FakeVault]:
    with fake_vault() as server:
        server.write("secret/teams/pipeline", **SECRET)
        yield server


@pytest.fixture
def filled() -> Iterator[list[Vault]]:
    """The renewals started in a test, to be ended with it."""
    vaults: list[Vault] = []
    yield vaults
    for vault in vaults:
        vault.close()


def _environ(server: FakeVault, **variables: str) -> dict[str, str]:
    own = {"VAULT_ADDR": server.url, "VAULT_PATH": "teams/pipeline", "VAULT_TOKEN": ROOT}
    return {**REQUIRED, **own, **variables}


def _approle(server: FakeVault, **variables: str) -> dict[str, str]:
    own = {
        "VAULT_TOKEN": "",
        "VAULT_AUTH": "approle",
        "VAULT_ROLE_ID": ROLE_ID,
        "VAULT_SECRET_ID": SECRET_ID,
    }
    return _environ(server, **{**own, **variables})


def _kubernetes(server: FakeVault, folder: Path, **variables: str) -> dict[str, str]:
    (folder / "token").write_text(POD_TOKEN + "\n")
    own = {
        "VAULT_TOKEN": "",
        "VAULT_AUTH": "kubernetes",
        "VAULT_ROLE": KUBERNETES_ROLE,
        "VAULT_JWT_PATH": str(folder / "token"),
    }
    return _environ(server, **{**own, **variables})


@pytest.mark.parametrize("method", ["token", "approle", "kubernetes"])
def test_each_login_fills_the_environment(
    server: FakeVault, filled: list[Vault], tmp_path: Path, method: str
) -> None:
    """With a token, an AppRole or a pod's account, the secret's keys are variables and settings read them."""
    environ = {
        "token": lambda: _environ(server),
        "approle": lambda: _approle(server),
        "kubernetes": lambda: _kubernetes(server, tmp_path),
    }[method]()
    filled.append(fill(environ))
    password = load_settings(environ).kafka_sasl_password
    assert password
    assert password.get_secret_value() == PASSWORD


def test_what_is_set_stays(server: FakeVault, filled: list[Vault]) -> None:
    """A variable that the process was started with wins over Vault's; the log says which were kept."""
    environ = _environ(server, KAFKA_SASL_USERNAME="bob")
    with log_lines(variables) as lines:
        filled.append(fill(environ))
    assert environ["KAFKA_SASL_USERNAME"] == "bob"
    assert environ["KAFKA_SASL_PASSWORD"] == PASSWORD
    [line] = [line for line in lines if line["event"] == "vault.read"]
    assert line["kept"] == ["KAFKA_SASL_USERNAME"]
    assert "KAFKA_SASL_PASSWORD" in line["set"]


def test_numbers_and_switches_are_text(server: FakeVault, filled: list[Vault]) -> None:
    """JSON's numbers and booleans become what the settings read."""
    server.write("secret/teams/pipeline", MAX_RETRIES=7, KAFKA_ENABLED=False)
    environ = _environ(server)
    filled.append(fill(environ))
    settings = load_settings(environ)
    assert (settings.max_retries, settings.kafka_enabled) == (7, False)


FAULTS: dict[str, tuple[dict[str, str], type[PipelineError], str]] = {
    "no address": ({"VAULT_ADDR": ""}, ConfigurationError, "VAULT_ADDR"),
    "no scheme": (
        {"VAULT_ADDR": "vault.example.org:8200"},
        ConfigurationError,
        "VAULT_ADDR: it has no scheme: https://",
    ),
    "http to another machine": (
        {"VAULT_ADDR": "http://vault.example.org:8200"},
        ConfigurationError,
        "VAULT_ADDR: the token and the secret would cross the network unencrypted: use https://",
    ),
    "a name that only looks like this machine": (
        {"VAULT_ADDR": "http://localhost@vault.example.org:8200"},
        ConfigurationError,
        "use https://",
    ),
    "a path to another mount": (
        {"VAULT_PATH": "../../sys/internal/ui/mounts"},
        ConfigurationError,
        "VAULT_PATH: no path below a mount",
    ),
    "a mount with a query": ({"VAULT_MOUNT": "secret?x"}, ConfigurationError, "VAULT_MOUNT: no path"),
    "no token": ({"VAULT_TOKEN": ""}, ConfigurationError, "VAULT_AUTH=token needs VAULT_TOKEN"),
    "an ended token": ({"VAULT_TOKEN": PASSWORD}, ConfigurationError, "VAULT_TOKEN"),
    "half an AppRole": (
        {"VAULT_AUTH": "approle", "VAULT_ROLE_ID": ROLE_ID},
        ConfigurationError,
        "needs VAULT_SECRET_ID",
    ),
    "a wrong secret id": (
        {"VAULT_AUTH": "approle", "VAULT_ROLE_ID": ROLE_ID, "VAULT_SECRET_ID": PASSWORD},
        ConfigurationError,
        "correct VAULT_ROLE_ID and VAULT_SECRET_ID",
    ),
    "no pod": (
        {"VAULT_AUTH": "kubernetes", "VAULT_ROLE": "x", "VAULT_JWT_PATH": "/nowhere"},
        ConfigurationError,
        "VAULT_JWT_PATH=/nowhere",
    ),
    "no such secret": (
        {"VAULT_PATH": "teams/other"},
        ConfigurationError,
        "vault kv put -mount=secret teams/other",
    ),
    "nobody there": ({"VAULT_ADDR": "http://127.0.0.1:1"}, ServiceUnavailableError, "http://127.0.0.1:1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_error_with_its_mend(server: FakeVault, fault: str) -> None:
    """Each fault is one error that names the variable; no error, with all its causes, holds a value."""
    variables, kind, named = FAULTS[fault]
    with pytest.raises(kind) as caught:
        fill(_environ(server, **variables))
    assert named in str(caught.value)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_a_sealed_vault_is_asked_again(server: FakeVault) -> None:
    """Sealed or without a leader: asked a few times, then unavailable, which a supervisor tries again."""
    server.sealed = True
    with pytest.raises(ServiceUnavailableError, match="sealed"):
        fill(_environ(server))
    assert len(server.requests) == client.TRIES


def test_a_value_that_is_no_text_is_refused(server: FakeVault) -> None:
    """A setting whose value is no text is named without its value."""
    server.write("secret/teams/pipeline", KAFKA_SASL_PASSWORD=[PASSWORD])
    with pytest.raises(ConfigurationError, match="KAFKA_SASL_PASSWORD") as caught:
        fill(_environ(server))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_only_variables_of_this_project_are_taken(server: FakeVault, filled: list[Vault]) -> None:
    """A secret sets settings and topics, no variable that loads code or moves traffic; one line says so."""
    others = ("AWS_ENDPOINT_URL", "HTTPS_PROXY", "LD_PRELOAD", "PYTHONPATH", "max_retries", "with space")
    taken = {"MAX_RETRIES": "7", "KAFKA_TOPIC_ERRORS": "own-errors", "OTEL_EXPORTER_OTLP_HEADERS": "key=1"}
    server.write("secret/teams/pipeline", **taken, **dict.fromkeys(others, PASSWORD), LISTED=[PASSWORD])
    environ = _environ(server)
    before = set(environ)
    with log_lines(variables) as lines:
        filled.append(fill(environ))
    assert {name: environ[name] for name in set(environ) - before} == taken
    [line] = [line for line in lines if line["event"] == "vault.ignored"]
    assert line["names"] == sorted([*others, "LISTED"])
    assert PASSWORD not in repr(lines)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server: FakeVault, status: int) -> None:
    """No token reaches the host that a redirect names: the process ends with the fix."""
    with fake_vault() as other:
        other.write("secret/teams/pipeline", **SECRET)
        server.redirect = status, other.url
        with pytest.raises(
            ConfigurationError, match="Set VAULT_ADDR to the address that answers itself"
        ) as caught:
            fill(_environ(server))
        assert other.requests == []
    assert ROOT not in str(caught.value)


def test_the_login_of_an_approle_is_not_redirected(server: FakeVault) -> None:
    """A secret id reaches no other host either."""
    with fake_vault() as other:
        server.redirect = 307, other.url
        with pytest.raises(ConfigurationError, match="redirects to"):
            fill(_approle(server))
        assert other.requests == []


def test_a_token_is_renewed_before_it_ends(server: FakeVault, filled: list[Vault]) -> None:
    """A token that lives six seconds is renewed again and again, without a new login."""
    server.ttl = 6  # a renewal may be two seconds late
    filled.append(fill(_approle(server)))
    renewals = "POST /v1/auth/token/renew-self"
    wait_until(lambda: server.requests.count(renewals) >= 2, "two renewals")
    assert server.requests.count("POST /v1/auth/approle/login") == 1


@pytest.fixture
def renewing(server: FakeVault, monkeypatch: pytest.MonkeyPatch) -> FakeVault:
    """A Vault whose tokens are renewed each second, and live long enough for a busy machine to be late."""
    server.ttl = 60
    monkeypatch.setattr(client, "RENEW_AT", 1 / server.ttl)
    return server


def test_past_its_longest_life_there_is_a_new_login(renewing: FakeVault, filled: list[Vault]) -> None:
    """A token that cannot be renewed any more, or was revoked, is replaced by a new login."""
    server = renewing
    server.max_ttl = server.ttl / 2
    filled.append(fill(_approle(server)))
    login = "POST /v1/auth/approle/login"
    wait_until(lambda: server.requests.count(login) >= 2, "a second login")
    server.max_ttl = 3600
    server.revoke_all()
    wait_until(lambda: server.requests.count(login) >= 3, "a login after the revocation")


def test_a_vault_that_is_away_meanwhile_is_waited_for(
    renewing: FakeVault, filled: list[Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is a warning; the renewal goes on after it."""
    monkeypatch.setattr(client, "RETRY", 0.2)
    server = renewing
    with log_lines(client) as lines:
        filled.append(fill(_approle(server)))
        server.sealed = True
        wait_until(lambda: any(line["event"] == "vault.away" for line in lines), "a warning")
        server.sealed = False
        asked = len(server.requests)
        wait_until(lambda: "POST /v1/auth/token/renew-self" in server.requests[asked:], "a renewal")


def test_a_changed_secret_is_told(renewing: FakeVault, filled: list[Vault]) -> None:
    """Settings are read once; that a secret was changed since is logged, without its value."""
    server = renewing
    with log_lines(client) as lines:
        filled.append(fill(_approle(server)))
        server.write("secret/teams/pipeline", KAFKA_SASL_PASSWORD="new " + PASSWORD)
        wait_until(lambda: any(line["event"] == "vault.secret_changed" for line in lines), "a warning")
    assert PASSWORD not in repr(lines)


def test_a_token_that_cannot_be_renewed_is_told(renewing: FakeVault, filled: list[Vault]) -> None:
    """Without a way to log in anew, an error says that the token ends and what to do."""
    server = renewing
    server.renewable = False
    with log_lines(client) as lines:
        filled.append(fill(_environ(server, VAULT_TOKEN=server.token())))
        wait_until(lambda: any(line["event"] == "vault.token_ends" for line in lines), "an error")


def test_nothing_is_logged_that_is_secret(
    server: FakeVault, filled: list[Vault], caplog: pytest.LogCaptureFixture
) -> None:
    """At the most talkative level, no line of ours or of a library holds a value, an id or a token."""
    caplog.set_level(logging.DEBUG)
    with log_lines(client) as login, log_lines(variables) as filling:
        filled.append(fill(_approle(server)))
    said = repr([*login, *filling]) + caplog.text
    assert "vault.read" in said
    assert not [secret for secret in (PASSWORD, "alice", SECRET_ID, ROOT) if secret in said]


@pytest.mark.parametrize(
    "command",
    [
        [
            sys.executable,
            "-c",
            "from pipeline.cli.service import read_settings as s; print(s().service_name)",
        ],
        [sys.executable, "-c", "from pipeline.celery import app; print(app.pipeline.settings.service_name)"],
    ],
)
def test_every_edge_asks_vault_first(server: FakeVault, command: list[str]) -> None:
    """Commands and Celery's processes start with nothing but Vault's address in their environment."""
    server.write("secret/teams/pipeline", **{**REQUIRED, "SERVICE_NAME": "from-vault"})
    inherited = {name: value for name, value in os.environ.items() if name not in REQUIRED}
    own = {"VAULT_ADDR": server.url, "VAULT_PATH": "teams/pipeline", "VAULT_TOKEN": ROOT}
    done = subprocess.run(
        command, env={**inherited, **own}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["from-vault"], done.stderr


@pytest.mark.parametrize(
    "program", [["celery", "-A", "pipeline", "bridge"], ["pipeline.cli", "jobs", "list"]]
)
def test_without_vault_a_process_ends_with_one_message(program: list[str]) -> None:
    """Away at start: no traceback, the address, an exit code that a supervisor takes for a failure."""
    run = "import sys; from pipeline.cli import main; main(sys.argv[1:])"
    command = ["-m", *program] if program[0] == "celery" else ["-c", run, *program[1:]]
    own = {"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_PATH": "teams/pipeline", "VAULT_TOKEN": ROOT}
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Error: Could not log in at Vault http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
