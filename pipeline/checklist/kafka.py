"""Lines of the checklist about Kafka."""

import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.capacity import quotas
from pipeline.checklist.facts import HEARD_WITHIN, TIMEOUT, Facts
from pipeline.checklist.line import (
    NEAR,
    Finding,
    Item,
    fail,
    ok,
    skip,
    warn,
)
from pipeline.checklist.rehearsal import rehearse_close
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.infra.needs import DAY_MS, ERRORS_RETENTION_MS, missing_topics, topics_of_others
from pipeline.infra.topicschemas import MEND
from pipeline.kafka import producer_configuration
from pipeline.observe.brokerconnections import LIMITED, connections_of
from pipeline.registry import SchemaRegistry
from pipeline.settings import DLQ_TOPIC, ERRORS_TOPIC, TOPIC_VARIABLE

_PROVISION = 'Run "pipeline provision --update".'
_DOOR = "It is set in pipeline/kafka: undo what changed it."

#: Replicas of partitions for a broker of up to four cores ("Right-size your cluster", MSK developer guide).
BROKER_REPLICAS = 1000

#: librdkafka's own default; a consumer that processes long needs more.
DEFAULT_POLL_INTERVAL_MS = 300_000


def _properties(
    owner: str, configuration: Mapping[str, Any], wanted: Mapping[str, Any], mend: str = _DOOR
) -> Finding:
    """Return PASS if a client is made with these properties."""
    found = {name: configuration.get(name) for name in wanted}
    evidence = f"the {owner} is made with " + ", ".join(f"{name}={value}" for name, value in found.items())
    return ok(evidence) if found == wanted else fail(evidence, mend)


def _idempotent(facts: Facts) -> Finding:
    return _properties("producer", facts.producer, {"enable.idempotence": True})


def _acks(facts: Facts) -> Finding:
    found = _properties("producer", facts.producer, {"acks": "all"})
    replication = facts.settings.topic_replication_factor
    if found.status == "PASS" and replication < 3:
        return warn(
            f"{found.evidence}, but TOPIC_REPLICATION_FACTOR={replication}: all that are in sync may be one",
            "Set TOPIC_REPLICATION_FACTOR=3 where there are three brokers: min.insync.replicas is then 2.",
        )
    return found


def _manual_commit(facts: Facts) -> Finding:
    wanted = {"enable.auto.commit": False, "enable.auto.offset.store": False}
    return _properties("consumer", facts.consumer, wanted)


def _aborted(facts: Facts) -> Finding:
    return _properties("consumer", facts.consumer, {"isolation.level": "read_committed"})


def _cooperative(facts: Facts) -> Finding:
    if facts.consumer.get("group.protocol") == "consumer":
        return ok("KAFKA_GROUP_PROTOCOL=consumer (KIP-848): the broker moves single partitions")
    return _properties("consumer", facts.consumer, {"partition.assignment.strategy": "cooperative-sticky"})


def _poll_interval(facts: Facts) -> Finding:
    milliseconds = int(facts.consumer.get("max.poll.interval.ms", DEFAULT_POLL_INTERVAL_MS))
    evidence = (
        f"the consumer is made with max.poll.interval.ms={milliseconds}; it runs no task, and polls while "
        f"tasks run up to {facts.longest_run:g} s on workers"
    )
    return ok(evidence) if milliseconds > DEFAULT_POLL_INTERVAL_MS else fail(evidence, _DOOR)


def _client_id(facts: Facts) -> Finding:
    mine = str(facts.producer.get("client.id"))
    other = str(producer_configuration(facts.settings, "worker").get("client.id"))
    evidence = f"client.id={mine}; the next client's is {other}"
    if mine != other and socket.gethostname() in mine:
        return ok(evidence)
    return fail(evidence, _DOOR)


def _tls(facts: Facts) -> Finding:
    protocol = str(facts.producer.get("security.protocol"))
    servers = facts.settings.kafka_bootstrap_servers
    if "SSL" not in protocol:
        evidence = f"KAFKA_SECURITY_PROTOCOL={protocol} to {servers}"
        mend = "Set KAFKA_SECURITY_PROTOCOL=SSL and name the brokers' TLS listeners."
        here = facts.settings.brokers_are_here
        return warn(f"{evidence}, this machine", mend) if here else fail(evidence, mend)
    authorities = facts.settings.ssl_ca_location
    if authorities and not Path(authorities).is_file():
        return fail(
            f"SSL_CA_LOCATION={authorities} is no file", "Name the CA bundle that signed the brokers."
        )
    return ok(
        f"KAFKA_SECURITY_PROTOCOL={protocol}{_login(facts)}, certificates checked against "
        f"{authorities or 'the system CA bundle'}; {len(facts.cluster.brokers)} brokers answered over it"
    )


def _login(facts: Facts) -> str:
    mechanism, certificate = facts.settings.kafka_sasl_mechanism, facts.settings.ssl_certificate_location
    tokens = facts.settings.kafka_oauth_token_url
    named = f" with KAFKA_SASL_MECHANISM={mechanism}" if mechanism else ""
    named += f", tokens from {tokens}" if tokens else ""
    return named + (f", client certificate {certificate}" if certificate else "")


def _error_topic(facts: Facts) -> Finding:
    name = facts.settings.topic(ERRORS_TOPIC)
    if name not in facts.cluster.topics:
        return fail(f"there is no topic {name}", _PROVISION)
    retention = facts.topic_configs.get(name, {}).get("retention.ms")
    if retention is None:
        return skip(f"topic {name} is there; this cluster does not tell its retention")
    evidence = f"topic {name} has retention.ms={retention} ({int(retention) / DAY_MS:g} days)"
    (topic,) = (each for each in facts.topics if each.need.name == name)
    if any(each.key == "retention.ms" for each in topic.config):
        return fail(f"{evidence}, should be {ERRORS_RETENTION_MS} (30 days)", _PROVISION)
    return ok(evidence)


def _dlq_topic(facts: Facts) -> Finding:
    name, service = facts.settings.topic(DLQ_TOPIC), facts.settings.service_name
    if name not in facts.cluster.topics:
        return fail(f"there is no topic {name}", _PROVISION)
    if service not in name:
        return warn(
            f"topic {name} is there; its name does not say that it is {service}'s",
            f"Make sure that no other service has the same {TOPIC_VARIABLE}DLQ.",
        )
    return ok(f"topic {name} is there, of service {service} only")


def _creation(facts: Facts) -> Finding:
    if missing := missing_topics(facts.topic_needs, facts.cluster.topics):
        return fail(f"missing: {', '.join(missing)}", 'Run "pipeline provision", or set AUTO_PROVISION=true.')
    others = topics_of_others(facts.settings, facts.registry)
    if absent := others.keys() - facts.cluster.topics.keys():
        return fail(
            f"missing, of others: {', '.join(sorted(absent))}",
            f"Ask their owners, or name them in {TOPIC_VARIABLE}<NAME>: topics of others are not made here.",
        )
    wrong = [f"{topic.need.name}: {each.text()}" for topic in facts.topics for each in topic.differences]
    if wrong:
        return fail("; ".join(wrong), _PROVISION)
    evidence = f"all {len(facts.topic_needs) + len(others)} topics are there"
    needed = {*(need.name for need in facts.topic_needs), *others}
    strange = [
        f"{TOPIC_VARIABLE}{name}" for name, topic in facts.settings.topics.items() if topic not in needed
    ]
    if strange:
        return warn(
            f"{evidence}, but {', '.join(sorted(strange))} is the name of none of them",
            f"Remove it, or write {TOPIC_VARIABLE} and a topic of a stage or consumer in capitals, with "
            "_ for - and dots.",
        )
    if not facts.topic_configs:
        return skip(f"{evidence}; this cluster does not tell how they are configured")
    evidence += " with the partitions, replication and retention of the settings"
    if not facts.settings.auto_provision:
        return warn(
            f"AUTO_PROVISION=false; {evidence}",
            'Run "pipeline provision" at each deployment, or set it true.',
        )
    return ok(f"AUTO_PROVISION=true; {evidence}")


def _schemas(facts: Facts) -> Finding:
    if not facts.schemas:
        return skip("no stage emits a topic with a schema")
    if wrong := [each for each in facts.schemas if each.state == "incompatible"]:
        reasons = "; ".join(f"{each.subject}: {each.reason}" for each in wrong)
        return fail(f"not compatible with the versions that are registered: {reasons}", MEND)
    if new := [each.subject for each in facts.schemas if each.state == "new"]:
        return fail(f"not registered as this version writes: {', '.join(new)}", 'Run "pipeline provision".')
    found = ", ".join(f"{each.subject} version {each.version} (id {each.id})" for each in facts.schemas)
    return ok(f"registered: {found}")


def _partitions(facts: Facts) -> Finding:
    cluster = facts.cluster
    mine = [at for need in facts.topic_needs for at in cluster.topics.get(need.name, ())]
    held = Counter(broker for topic in cluster.topics.values() for at in topic for broker in at.replicas)
    fullest = max(held.values(), default=0)
    evidence = (
        f"{len(mine)} partitions in {sum(len(at.replicas) for at in mine)} replicas; of all topics that this "
        f"process sees, the fullest of {len(cluster.brokers)} brokers holds {fullest:,} replicas"
    )
    if fullest < BROKER_REPLICAS:
        return ok(evidence)
    return warn(
        f"{evidence}; MSK's smaller brokers are made for {BROKER_REPLICAS:,}",
        "Use more or larger brokers. New topics: TOPIC_PARTITIONS, SERVICE_TOPIC_PARTITIONS.",
    )


def _connections(facts: Facts) -> Finding:
    mechanism = facts.settings.kafka_sasl_mechanism
    if mechanism != LIMITED:
        return skip(f"KAFKA_SASL_MECHANISM={mechanism}: MSK limits connections with {LIMITED}")
    workers, group = facts.workers, facts.group
    if workers is None:
        return skip(f"no heartbeats of workers could be read within {HEARD_WITHIN:g} s, to count workers")
    bridges = "unknown" if group.problem else f"{len(group.members):,}"
    most, a_second = int(quotas.MSK_CONNECTIONS.value), quotas.MSK_NEW_CONNECTIONS.value
    held = int(connections_of(workers, len(group.members)))
    evidence = (
        f"workers: {workers:,}, bridges: {bridges}, which hold about {held:,} connections to the broker that "
        f"leads the control topics, one of {len(facts.cluster.brokers)}; with IAM it takes {most:,}, and "
        f"{a_second:g} new ones a second: a restart of all at once takes {held / a_second:.0f} s or more"
    )
    if held < NEAR * most:
        return ok(evidence)
    return warn(
        evidence,
        "Run fewer workers with more child processes each, raise listener.name.client_iam.max.connections of "
        "the cluster, or use another authentication.",
    )


def _health(facts: Facts) -> Finding:
    code, report = facts.health["/kafka/health"]
    if report["status"] == "unhealthy":
        return fail(f"/kafka/health answered {code}: {report['error']}", "Mend what it names.")
    evidence = (
        f"/kafka/health answered {code} {report['status']}: brokers {', '.join(report['brokers'])}, "
        f"{len(report['existing_topics'])} topics there, "
        f"missing {', '.join(report['missing_topics']) or 'none'}, lag {report['lag']}"
    )
    if report["status"] == "degraded":
        return warn(evidence, f"Mend what is missing. {report.get('error', '')}".strip())
    if facts.settings.health_port is None:
        return warn(f"{evidence}; HEALTH_PORT is not set", "Set HEALTH_PORT for bridge and worker.")
    return ok(f"{evidence}; bridge and worker serve it on HEALTH_PORT={facts.settings.health_port}")


def _snappy(facts: Facts) -> Finding:
    found = _properties("producer", facts.producer, {"compression.type": "snappy"})
    try:
        configs = facts.topic_configs
    except ServiceError:
        return found
    again = {
        name: config["compression.type"]
        for name, config in configs.items()
        if config.get("compression.type") not in ("snappy", "producer")
    }
    if found.status == "PASS" and again:
        topics = ", ".join(f"{name} ({kind})" for name, kind in again.items())
        return warn(f"{found.evidence}, but brokers compress anew for {topics}", _PROVISION)
    return found


def _registry(facts: Facts) -> Finding:
    url = facts.settings.schema_registry_url
    if url is None:
        return skip("SCHEMA_REGISTRY_URL is not set: no record that is read has a schema")
    try:
        with closing(SchemaRegistry(facts.settings, TIMEOUT)) as registry:
            registry.ping()
    except (ServiceError, ConfigurationError) as error:
        return fail(str(error), "docs/guides/schemas.md has the settings of each kind of authentication.")
    return ok(f"{url} answers; a schema that a record names is asked for once")


def _shutdown(facts: Facts) -> Finding:
    rehearsal = rehearse_close(facts.settings)
    evidence = (
        f"tried on a mock cluster: a closing producer delivered {rehearsal.delivered} of "
        f"{rehearsal.produced} queued events, a closing consumer gave back {rehearsal.revoked} of "
        f"{rehearsal.assigned} partitions"
    )
    complete = rehearsal.delivered == rehearsal.produced and rehearsal.revoked == rehearsal.assigned > 0
    return ok(evidence) if complete else fail(evidence, _DOOR)


ITEMS: tuple[Item, ...] = (
    Item(id="kafka.idempotent-producer", section="Kafka", title="Idempotent producer", check=_idempotent),
    Item(id="kafka.acks-all", section="Kafka", title="Acks all", check=_acks),
    Item(id="kafka.manual-commit", section="Kafka", title="Manual offset commit", check=_manual_commit),
    Item(id="kafka.read-committed", section="Kafka", title="Aborted transactions left out", check=_aborted),
    Item(
        id="kafka.cooperative-sticky",
        section="Kafka",
        title="Cooperative-sticky rebalancing",
        check=_cooperative,
    ),
    Item(
        id="kafka.max-poll-interval",
        section="Kafka",
        title="Extended max.poll.interval.ms",
        check=_poll_interval,
    ),
    Item(id="kafka.client-id", section="Kafka", title="Unique client.id per instance", check=_client_id),
    Item(id="kafka.tls", section="Kafka", title="SSL/TLS enabled", check=_tls, asks="kafka"),
    Item(id="kafka.error-topic", section="Kafka", title="Error topic", check=_error_topic, asks="kafka"),
    Item(
        id="kafka.dlq-topic",
        section="Kafka",
        title="DLQ topic per service",
        check=_dlq_topic,
        asks="kafka",
    ),
    Item(
        id="kafka.topic-creation",
        section="Kafka",
        title="Topic auto-creation at startup",
        check=_creation,
        asks="kafka",
    ),
    Item(id="kafka.schemas", section="Kafka", title="Schemas of emitted topics", check=_schemas),
    Item(id="kafka.partitions", section="Kafka", title="Partitions", check=_partitions, asks="kafka"),
    Item(id="kafka.connections", section="Kafka", title="Connections", check=_connections, asks="kafka"),
    Item(
        id="kafka.schema-registry",
        section="Kafka",
        title="Schema registry",
        check=_registry,
        asks="kafka",
    ),
    Item(id="kafka.health", section="Kafka", title="Health check endpoint", check=_health, asks="kafka"),
    Item(id="kafka.snappy", section="Kafka", title="Snappy compression", check=_snappy),
    Item(id="kafka.graceful-shutdown", section="Kafka", title="Graceful shutdown", check=_shutdown),
)
