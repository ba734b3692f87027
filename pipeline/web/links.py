"""Links out of the jobs page: to Flower's page about a task, and to the trace of a job."""

from urllib.parse import quote

from config.settings import Settings


class Links:
    """Where FLOWER_URL and TRACE_URL lead; None where they are not set."""

    def __init__(self, settings: Settings) -> None:
        self._flower = settings.flower_url
        self._trace = settings.trace_url

    def flower(self, task_id: str | None) -> str | None:
        """Flower's page about a task."""
        if self._flower is None or not task_id:
            return None
        return f"{self._flower.rstrip('/')}/task/{quote(task_id, safe='')}"

    def trace(self, job_id: str) -> str | None:
        """The trace of a job, or a search for it."""
        return self._trace and self._trace.replace("{job_id}", quote(job_id, safe=""))
