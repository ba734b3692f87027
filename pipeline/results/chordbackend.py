"""Chords as Celery's canvas asks a backend for them. Header tasks are counted by settlement, not here."""

from collections.abc import Sequence
from typing import Any

from celery import current_task
from celery.result import GroupResult
from celery.utils.functional import _regen

from pipeline.jobs import ChordRecords
from pipeline.results.chordparts import RUN, chord_id_of
from pipeline.transport.republishing import origin


class ChordBackend:
    """The part of the result backend that publishes chords."""

    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: By the group of a header that is being published: the chord's id.
        self._publishing: dict[str, str] = {}

    @property
    def chords(self) -> ChordRecords:
        """The chords of this service."""
        records: ChordRecords = self.app.pipeline.job_store.chords
        return records

    def ensure_chords_allowed(self) -> None:
        """Do nothing: the jobs table, which counts the header, is always there."""

    def apply_chord(self, header_result_args: Sequence[Any], body: Any, **kwargs: Any) -> None:
        """Begin a run of a chord; keep how the results of its header are nested, where they are.

        A frozen chord may be applied again: that is another run, with the same ids.
        """
        group_id, results = header_result_args
        if run := origin():
            body[RUN] = run
        chord_id = self._publishing[group_id] = chord_id_of(group_id, body)
        # A generator stays one: it is not read before its tasks are sent, and its results are not nested.
        if not isinstance(results, _regen) and any(isinstance(each, GroupResult) for each in results):
            self.chords.set_shape(chord_id, _shape(results))

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Set the number of header tasks. Celery calls it before it sends the last one.

        It also calls it for groups at the end of a chain in a header, whose tasks count in the header's.
        """
        if (chord_id := self._publishing.pop(group_id, None)) is not None:
            self.chords.set_size(chord_id, chord_size)

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Expect one more header task in the chord of the running task (``Task.add_to_chord``)."""
        self.chords.add_task(chord_id_of(group_id, current_task.request.chord), result.id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Do nothing: this run may not be the last of the task. Settlement records its end."""


def _shape(results: Sequence[Any]) -> list[Any]:
    return [_shape(each.results) if isinstance(each, GroupResult) else each.id for each in results]
