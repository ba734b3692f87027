"""docker-compose.yml, Dockerfile and Procfile, checked without Docker."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile
from jsonschema import Draft202012Validator

from pipeline.services import jars
from pipeline.settings import load_settings
from pipeline.worker.runtime import CLOSE_TIMEOUT, SETTLE_TIMEOUT

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "tests" / "data" / "compose-spec.json"

#: Which of the local services' servers is in which image.
IMAGES = {
    "apache/kafka": "kafka",
    "softwaremill/elasticmq-native": "elasticmq",
    "amazon/dynamodb-local": "dynamodb",
    "apicurio/apicurio-registry-mem": "registry",
    "adobe/s3mock": "s3",
}

#: This project's own processes.
PROCESSES = ("provision", "bridge", "worker", "web", "flower")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file, with its anchors resolved."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


def test_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    """The file is valid under the Compose Specification's own schema."""
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(compose)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_servers_have_the_tested_versions(compose: dict[str, Any]) -> None:
    """Containers run exactly the versions that the local services, and so the tests, run."""
    images = [service["image"].split(":") for service in compose["services"].values()]
    found = {IMAGES[name]: tag for name, tag in images if name in IMAGES}
    assert found == jars.versions()


def test_processes_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    """Provisioning waits until every server is healthy, everything else until it is done."""
    services = compose["services"]
    servers = [name for name in services if name not in PROCESSES]
    assert services["provision"]["depends_on"] == {name: {"condition": "service_healthy"} for name in servers}
    assert all("healthcheck" in services[name] for name in servers)
    for name in ("bridge", "worker", "web", "flower"):
        assert services[name]["depends_on"] == {"provision": {"condition": "service_completed_successfully"}}


@pytest.mark.parametrize("name", PROCESSES)
def test_environment_makes_settings(compose: dict[str, Any], name: str) -> None:
    """Each process is given a complete environment, and no access key in it."""
    environment = compose["services"][name]["environment"]
    assert load_settings(environment).kafka_bootstrap_servers == "kafka:19092"
    assert not [variable for variable in environment if "ACCESS_KEY" in variable]


@pytest.mark.parametrize(("name", "variable"), [("flower", "FLOWER_BASIC_AUTH"), ("web", "WEB_TOKEN")])
def test_nothing_that_acts_runs_open(compose: dict[str, Any], name: str, variable: str) -> None:
    """Without its password in the environment, compose stops instead of starting it open."""
    assert compose["services"][name]["environment"][variable].startswith(f"${{{variable}:?")


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    """Every published port is bound to 127.0.0.1: none of the servers asks who comes."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_runs_what_the_procfile_runs(compose: dict[str, Any]) -> None:
    """The same commands start the processes with and without Docker."""
    processes = parse_procfile((ROOT / "Procfile").read_text()).processes
    contained = {name: compose["services"][name]["command"] for name in processes}
    ports = {"${FLOWER_PORT:-5555}": "5555", "--port=${WEB_PORT:-8080}": "--host=0.0.0.0 --port=8080"}
    for variable, inside in ports.items():
        processes = {name: command.replace(variable, inside) for name, command in processes.items()}
    assert contained == processes


def test_worker_has_time_to_end_its_longest_task(compose: dict[str, Any]) -> None:
    """A container is killed after a run may have taken its whole limit, and its end was settled."""
    worker = compose["services"]["worker"]
    longest = load_settings(worker["environment"]).task_time_limit
    assert float(worker["stop_grace_period"].removesuffix("s")) >= longest + SETTLE_TIMEOUT + CLOSE_TIMEOUT


def test_image_does_not_run_as_root() -> None:
    """The image's user is a number other than 0, which an orchestrator can check."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert user.isdigit()
    assert int(user) > 0


@cache
def stages() -> dict[str, tuple[str, list[str]]]:
    """The stages of the Dockerfile: what each begins from, and its lines. The last has no name."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if begin := re.fullmatch(r"FROM (\S+)(?: AS (\w+))?", line):
            found[begin[2] or ""] = (begin[1], [])
            name = begin[2] or ""
        elif found:
            found[name][1].append(line)
    return found


def copied(stage: str) -> set[str]:
    """The folders that are copied into a stage, and into those that it begins from."""
    base, lines = stages()[stage]
    own = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    return own | (copied(base) if base in stages() else set())


def test_image_holds_no_example(compose: dict[str, Any]) -> None:
    """Without a target the image has no stages; only the compose file names the target that has."""
    assert list(stages())[-1] == ""
    assert copied("").isdisjoint({"tasks", "consumers"})
    assert {"tasks", "consumers"} <= copied("service")
    assert {compose["services"][name]["build"]["target"] for name in PROCESSES} == {"service"}


def test_base_image_can_be_given_by_digest() -> None:
    """Both images begin from the one argument."""
    bases = {base for base, _ in stages().values() if base not in stages()}
    assert bases == {"${PYTHON}"}


def test_no_container_can_gain_rights_or_take_the_machine(compose: dict[str, Any]) -> None:
    """No capabilities, no new privileges, a limit on memory and on processes, nothing privileged."""
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert 0 < service["pids_limit"] <= 1024, name
        assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & set(service), name


@pytest.mark.parametrize("name", PROCESSES)
def test_own_processes_write_to_memory_only(compose: dict[str, Any], name: str) -> None:
    """The file system of the image is read-only."""
    service = compose["services"][name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - a path in the container
    assert "volumes" not in service


def test_image_is_made_of_what_the_context_lets_in() -> None:
    """Everything the Dockerfile copies is let in by .dockerignore, and is there."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert set(copied) == let_in
    assert all((ROOT / source).exists() for source in copied)
