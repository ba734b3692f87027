"""Faults of observers: Flower, the topic of task events, the log's reader, Sentry, the health port."""

import os
import socket

from tests.faults.world import AT_WORK, Process, World


def test_logs_and_reports_go_nowhere(world: World) -> None:
    """Log lines and reports fail; tasks and dead letters do not."""
    for process in world.alive():
        world.stop(process)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        deaf = [_with_a_reader_that_leaves(world, kind, port) for kind in ("bridge", "worker")]
    world.load.send()
    world.load.send_one("arrivals", entity=0, do="refuse", fate="failed")
    world.load.send_one("arrivals", entity="bad", fate="rejected", submitted_at=-1.0)
    world.verify()
    assert all(process.lives for process in deaf), "a process ended because nobody read its log"
    for process in deaf:
        world.kill(process)


def test_nobody_takes_task_events(world: World) -> None:
    """Flower is frozen and killed, and Kafka refuses events: no task waits, and later events are sent."""
    flower = world.start("flower")
    world.wait(lambda: flower.at_work, "Flower at work")
    # It has just asked the workers; their answers are not read from now on.
    flower.pause()
    world.load.send()
    with world.task_events_refused():
        assert flower.lives
        world.kill(flower)
        world.load.send()
        world.verify(runs=1)


def _with_a_reader_that_leaves(world: World, kind: str, health_port: str) -> Process:
    reading, writing = os.pipe()
    sinks = {"SENTRY_DSN": "http://key@127.0.0.1:9/1", "HEALTH_PORT": health_port}
    process = world.start(kind, output=writing, **sinks)
    os.close(writing)
    seen = ""
    while AT_WORK[kind] not in seen:
        read = os.read(reading, 1 << 16)
        assert read, seen
        seen += read.decode(errors="replace")
    os.close(reading)
    return process
