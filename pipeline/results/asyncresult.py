"""The result that ``delay`` and ``apply_async`` return, which says so where results are not kept."""

from typing import Any, Final

from celery import Celery
from celery.result import AsyncResult

#: Raised by ``get``, ``state`` and the like.
NOT_KEPT: Final = (
    "The result of this task is not kept: set RESULTS=true, in the worker and in this process, to keep the "
    "results of all tasks, or ignore_result=False on the task to keep its own."
)


def keeps_some(app: Celery) -> bool:
    """Whether the results of any tasks that this process knows are kept."""
    return not app.conf.task_ignore_result or any(
        not task.ignore_result for name, task in app.tasks.items() if not name.startswith("celery.")
    )


class TaskResult(AsyncResult):  # type: ignore[misc]
    """The result of a task. To ask for one that is not kept raises ``NotImplementedError``.

    Celery's own returns None at once, as if the task had returned that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: True and False as the task was published; None where only its id is known
        self._ignored: bool | None = None

    @property
    def ignored(self) -> bool:
        """Whether the task was published so that its result is not kept."""
        return bool(self._ignored)

    @ignored.setter
    def ignored(self, value: bool | None) -> None:
        self._ignored = value
        if value and self.app.conf.task_ignore_result:
            # Flower asks for no state then; what is asked all the same says what to set.
            self.backend = self.app.backend.disabled

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the task, and return its result, as Celery does."""
        self.refuse_unkept()
        return super().get(*args, **kwargs)

    def _get_task_meta(self) -> Any:
        self.refuse_unkept()
        return super()._get_task_meta()

    def refuse_unkept(self) -> None:
        """Raise ``NotImplementedError`` where the result is not kept.

        In an app that keeps results, a task that ignores its own has None, as in Celery.
        """
        if self._ignored is False or not self.app.conf.task_ignore_result:
            return
        if self._ignored or not keeps_some(self.app):
            raise NotImplementedError(NOT_KEPT)
