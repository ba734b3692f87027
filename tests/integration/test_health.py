"""Health over HTTP: the right status and message within five seconds, whatever is away."""

import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.author.decorator import stage
from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry
from pipeline.infra.provision import provision
from pipeline.kafka import KafkaAdmin
from pipeline.observe.embedded import health_server, serve_health
from pipeline.observe.probe import LIFETIME
from pipeline.observe.server import WebServer
from pipeline.services.embedded import embedded_services as run_embedded_services
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import OutgoingMessage, SqsQueue, sqs_client
from tests.conftest import MakeEnvironment, MakeSettings

Answer = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_stages(("pipeline.demo.documents",))


@contextlib.contextmanager
def served(settings: Settings, registry: Registry) -> Iterator[WebServer]:
    """The server on a free port."""
    server = WebServer(settings, registry, "127.0.0.1", 0)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def ask(server: WebServer, path: str) -> Answer:
    """Status code and body; it must come soon."""
    started = time.monotonic()
    try:
        with urllib.request.urlopen(server.url + path, timeout=60) as response:  # noqa: S310
            answer = response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            answer = error.code, json.loads(error.read())
    # Probes are waited for four seconds; a busy machine adds some.
    assert time.monotonic() - started < 30, f"{path} took too long"
    return answer


def test_a_provisioned_service_is_healthy(
    services: Services, make_settings: MakeSettings, registry: Registry
) -> None:
    """Topics, lag, depths and the table are told, with service, version and time."""
    settings = make_settings(services)
    list(provision(settings, registry))
    queue = SqsQueue(sqs_client(settings), settings.sqs_task_queue_url)
    assert queue.send([OutgoingMessage(body="x", group_id="g", deduplication_id="d")]) == [None]
    with served(settings, registry) as server:
        code, health = ask(server, "/health")
        assert (code, health["status"]) == (200, "healthy"), health
        assert health["service"] == settings.service_name
        assert health["version"]
        assert health["timestamp"].endswith("+00:00")
        assert set(health["dependencies"]) == {"kafka", "sqs", "dynamodb"}
        _, kafka = ask(server, "/kafka/health")
        assert kafka["missing_topics"] == []
        assert settings.topic("document-received") in kafka["existing_topics"]
        assert kafka["lag"] == 0
        assert kafka["brokers"]
        _, sqs = ask(server, "/sqs/health")
        assert (sqs["messages_available"], sqs["messages_in_flight"], sqs["dlq_depth"]) == (1, 0, 0)
        assert ask(server, "/ready") == (200, {"status": "ready"})
        assert ask(server, "/live") == (200, {"status": "live"})
        assert ask(server, "/docs")[0] == 404


def test_missing_topics_degrade_and_a_missing_queue_ends_readiness(
    services: Services, make_settings: MakeSettings, registry: Registry
) -> None:
    """Each is named with its mend."""
    settings = make_settings(services)
    KafkaAdmin(settings).create(settings.topic("document-received"), partitions=4, replication=1, config={})
    with served(settings, registry) as server:
        code, kafka = ask(server, "/kafka/health")
        assert (code, kafka["status"]) == (200, "degraded")
        assert settings.topic("errors") in kafka["missing_topics"]
        code, sqs = ask(server, "/sqs/health")
        assert (code, sqs["status"]) == (503, "unhealthy")
        assert f"{settings.service_name}-tasks.fifo" in sqs["error"]
        assert "pipeline provision" in sqs["error"]
        code, health = ask(server, "/health")
        assert (code, health["status"]) == (503, "unhealthy")
        assert "There is no table" in health["dependencies"]["dynamodb"]["error"]
        code, ready = ask(server, "/ready")
        assert code == 503
        assert set(ready["reasons"]) == {"sqs", "dynamodb"}


def test_services_that_go_away_are_told_within_five_seconds(
    make_environment: MakeEnvironment, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broker, SQS and DynamoDB die under a healthy service: 503, the reason, and no crash."""
    with contextlib.ExitStack() as running:
        environment = make_environment(running.enter_context(run_embedded_services()))
        settings = _use(environment, monkeypatch)
        list(provision(settings, registry))
        with served(settings, registry) as server:
            assert ask(server, "/health")[0] == 200
            running.close()
            time.sleep(LIFETIME)
            code, health = ask(server, "/health")
            assert (code, health["status"]) == (503, "unhealthy")
            dependencies = health["dependencies"]
            assert {name: each["status"] for name, each in dependencies.items()} == dict.fromkeys(
                ("kafka", "sqs", "dynamodb"), "unhealthy"
            )
            code, kafka = ask(server, "/kafka/health")
            assert code == 503
            assert kafka["bootstrap_servers"] == settings.kafka_bootstrap_servers
            assert "No broker answers" in kafka["error"]
            assert ask(server, "/live") == (200, {"status": "live"})


def test_a_queue_service_that_accepts_and_never_answers_holds_nobody_up(
    embedded_services: Services,
    make_environment: MakeEnvironment,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other dependencies are told as they are, and the silent one as silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = make_environment(embedded_services) | {
            "AWS_ENDPOINT_URL_SQS": url,
            "SQS_TASK_QUEUE_URL": f"{url}/1/tasks.fifo",
            "SQS_DLQ_URL": f"{url}/1/dlq.fifo",
        }
        with served(_use(environment, monkeypatch), registry) as server:
            code, health = ask(server, "/health")
            assert code == 503
            assert "SQS did not answer within" in health["dependencies"]["sqs"]["error"]
            assert health["dependencies"]["kafka"]["status"] == "degraded"


def test_metrics_are_for_those_who_may(
    embedded_services: Services, make_settings: MakeSettings, registry: Registry
) -> None:
    """Depths, lag and dependencies for Prometheus; with WEB_TOKEN only for who sends it; health for all."""
    settings = make_settings(embedded_services, WEB_TOKEN="let-me-in")
    list(provision(settings, registry))
    with served(settings, registry) as server:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "let-me-in"}):
            with pytest.raises(urllib.error.HTTPError) as refused, _open(server, given):
                pass
            assert refused.value.code == 401
            refused.value.close()
        with _open(server, {"Authorization": "Bearer let-me-in"}) as answer:
            text = answer.read().decode()
        queue = settings.task_queue
        assert f'pipeline_queue_messages{{queue="{queue}",state="available"}} 0.0' in text
        assert 'pipeline_dependency{dependency="kafka"} 1.0' in text
        assert f'pipeline_consumer_lag{{topic="{settings.topic("document-received")}"}} 0.0' in text
        assert ask(server, "/health")[0] == 200
        assert "let-me-in" not in json.dumps(ask(server, "/health")[1])


def _open(server: WebServer, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(server.url + "/metrics", headers=headers)  # noqa: S310
    return urllib.request.urlopen(request, timeout=60)  # noqa: S310


def test_a_stage_s_queue_that_is_missing_hides_no_other(
    embedded_services: Services, make_settings: MakeSettings
) -> None:
    """It is named; what waits on the others, and is dead, is told all the same."""
    settings = make_settings(embedded_services)
    registry, there, gone = Registry(), *(f"{settings.service_name}-{name}.fifo" for name in ("z", "a"))

    @stage(consumes="a", queue=there, registry=registry)
    def first(data: int) -> None: ...

    list(provision(settings, registry))

    @stage(consumes="a", queue=gone, registry=registry)
    def second(data: int) -> None: ...

    with served(settings, registry) as server:
        code, sqs = ask(server, "/sqs/health")
        assert (code, sqs["status"]) == (200, "degraded")
        assert gone in sqs["error"]
        assert set(sqs["other_queues"]) == {there}
        assert sqs["dlq_depth"] == 0


def test_what_a_client_says_of_its_address_is_not_believed(
    embedded_services: Services,
    make_settings: MakeSettings,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A header that any client can send makes nobody this machine, or another, whatever uvicorn is told."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with served(make_settings(embedded_services), registry) as server:
        forged = {"X-Forwarded-For": "10.0.0.7"}
        # Believed, it would be another machine's, and refused.
        with _open(server, forged) as answer:
            assert answer.status == 200


def test_a_process_that_only_a_restart_mends_says_so(
    embedded_services: Services, make_settings: MakeSettings, registry: Registry
) -> None:
    """/live and /ready answer 503 with the reason for as long as it lasts, with its dependencies in order."""
    settings = make_settings(embedded_services)
    list(provision(settings, registry))
    stuck: list[str] = []
    server = WebServer(settings, registry, "127.0.0.1", 0, stuck=lambda: stuck[0] if stuck else None)
    server.start()
    try:
        assert ask(server, "/live") == (200, {"status": "live"})
        stuck.append("the event loop stands")
        assert ask(server, "/live") == (503, {"status": "stuck", "reason": "the event loop stands"})
        assert ask(server, "/ready") == (
            503,
            {"status": "not ready", "reasons": {"process": "the event loop stands"}},
        )
        stuck.clear()
        assert ask(server, "/ready") == (200, {"status": "ready"})
    finally:
        server.stop()


def test_a_taken_port_costs_the_endpoint_and_not_the_process(
    embedded_services: Services, make_settings: MakeSettings, registry: Registry
) -> None:
    """Several workers of one machine may share HEALTH_PORT: the first serves it."""
    settings = make_settings(embedded_services)
    with served(settings, registry) as server:
        port = int(server.url.rsplit(":", 1)[1])
        shared = settings.model_copy(update={"health_port": port})
        assert health_server(shared, registry, lambda: None) is None
        with serve_health(shared, registry, lambda: None):
            assert ask(server, "/live")[0] == 200


def _use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return load_settings(environment)
