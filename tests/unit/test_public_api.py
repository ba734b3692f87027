"""The public API, pinned: a change here is a change for every user."""

import importlib.util
import pickle
import subprocess
import sys

import pytest

import pipeline
from pipeline import CurrentTask, Part, current_task
from pipeline.author.context import running

TASK = CurrentTask(
    job_id="j",
    task_id="t",
    stage="count",
    entity_id="e",
    part=Part(ordinal=3, total=20),
    attempt=2,
    topic="orders",
    partition=1,
    offset=7,
    deadline=None,
)


def test_the_public_names_are_pinned() -> None:
    """Nothing appears in or leaves the public API unseen."""
    assert pipeline.__all__ == [
        "AsyncClient",
        "AsyncJobHandle",
        "Client",
        "CurrentTask",
        "Event",
        "InvalidEventError",
        "InvalidInputError",
        "JobCancelledError",
        "JobError",
        "JobFailedError",
        "JobHandle",
        "JobState",
        "KeyConflictError",
        "Part",
        "PermanentError",
        "PipelineError",
        "Record",
        "ResultNotKeptError",
        "ResultTooLargeError",
        "Retry",
        "ServiceError",
        "Stage",
        "StageDefinitionError",
        "Tick",
        "UnknownJobError",
        "consumer",
        "cron",
        "current_task",
        "every",
        "install",
        "stage",
    ]
    assert all(getattr(pipeline, name).__name__ == name for name in pipeline.__all__)


def test_an_unknown_name_is_an_error_as_in_every_module() -> None:
    """Names of callers are loaded at first use, and only those."""
    with pytest.raises(AttributeError, match="'pipeline' has no attribute 'app'"):
        pipeline.app  # noqa: B018


@pytest.mark.parametrize(
    "error",
    [
        pipeline.UnknownJobError("j", "There is no job j."),
        pipeline.JobFailedError("j", "price", "ValueError", "no price"),
    ],
)
def test_an_error_of_a_job_goes_through_a_process_pool(error: pipeline.JobError) -> None:
    """It is the same after pickling, with its fields."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - written here
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_nothing_hides_the_celery_app() -> None:
    """``celery -A pipeline`` looks for these names before it looks for pipeline/celery.py."""
    names = set(vars(pipeline)) - {"celery"}  # the submodule's name appears once it is imported
    assert "app" not in names
    assert "celery" not in pipeline.__all__
    assert importlib.util.find_spec("pipeline.stage") is None


def test_a_task_module_costs_no_vendor_library() -> None:
    """Importing the public API loads neither Kafka's nor AWS's client, nor Celery."""
    code = "import sys, pipeline; print({'celery', 'kombu', 'boto3', 'confluent_kafka'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_outside_a_task_there_is_none() -> None:
    """A unit test that calls a stage's function sees no task."""
    assert current_task() is None


def test_a_running_function_sees_its_task() -> None:
    """Inside a run the task is known, and forgotten after it."""
    with running(TASK):
        assert current_task() is TASK
    assert current_task() is None
