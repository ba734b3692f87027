"""The keys of every item in the table. Data outlives code: what is here must stay readable.

    pk                                  sk                     holds
    J#job                               META                   the job; its keys in the index; stages that are
                                                               done and end a path (ADR 23)
    J#job                               M#marker               a marker of the sweep, received (ADR 26)
    J#job                               S#stage                another unsplit stage or gather that is done
    J#job                               P#stage                the seal of the stage's first split
    J#job                               P#stage#split          the seal of another split of the stage (ADR 18)
    J#job                               F#stage#part           why a task is a dead letter
    L#split#level#index, L#split#top    -                      a node of the counter
    P#split#run#page, P#split#run#dN    -                      a page of sealed parts; a piece of the data
    R#split#leaf                        ordinal                a part's result
    T#task#messageid                    -                      a message's attempts
    H#chord                             -                      a chord: its size, how many ends, its decision
    H#chord#leaf                        index.task             the end of a header task (ADR 37)
    K#task                              -                      the result of a plain task (ADR 36)
    G#group                             -                      the ids of a saved group of plain tasks
    C                                   moment#job             a job that was cancelled, and when
    U#name                              -                      whose turn it is with a periodic duty;
                                                               how far the sweep is (ADR 28)
    S                                   schedule               up to when its ticks are settled (ADR 39)
    V                                   deployment             the routes of one version of the stages
    I                                   -                      the number of shards of the index (ADR 15)

Each ``pk`` starts with the service's name and ``/``, so that services can share a table, and their policies
tell their items apart. A seal is in
its job's own item collection, so that one query finds all splits of a job.
"""

import hashlib
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as time_of_day

from pipeline.jobs.model import JobState
from pipeline.jobs.refs import PartRef, Ref, SplitRef, StageRef

#: pk and sk.
Key = tuple[str, str]

#: Results and counters: a leaf holds this many ordinals, a node this many nodes.
FAN_OUT = 256
#: The sort key of items that are alone under their pk.
ALONE = "-"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of one service's items."""

    #: The service's name.
    service: str

    @property
    def prefix(self) -> str:
        """The beginning of every pk of this service, in the table and in the index, and of no other's.

        The policies grant the items under it and no others (ADR 22): a key without it would be denied.
        """
        return f"{self.service}/"

    def job(self, job_id: str) -> str:
        """Return the pk of all small items of a job."""
        return f"{self.service}/J#{job_id}"

    def meta(self, job_id: str) -> Key:
        """Return the key of a job's record."""
        return self.job(job_id), "META"

    def stage(self, job_id: str, stage: str) -> Key:
        """Return the key of the record that an unsplit stage, or a gather, is done."""
        return self.job(job_id), f"S#{stage}"

    def seal(self, split: SplitRef) -> Key:
        """Return the key of the seal of a stage's first split."""
        return self.job(split.job_id), f"P#{split.stage}"

    def further_seal(self, split: SplitRef) -> Key:
        """Return the key of the seal of a split whose stage has sealed another split in the same job."""
        return self.job(split.job_id), f"P#{split.stage}#{split.split_id}"

    def marker(self, job_id: str, marker_id: str) -> Key:
        """Return the key of the record that a worker received a marker."""
        return self.job(job_id), f"M#{marker_id}"

    def failure(self, ref: Ref) -> Key:
        """Return the key of the reason why a task is a dead letter."""
        return self.job(ref.job_id), f"F#{ref.stage}#{part_name(ref)}"

    def node(self, split_id: str, level: int, index: int) -> Key:
        """Return the key of a node of a split's counter that is not its root."""
        return f"{self.service}/L#{split_id}#{level}#{index}", ALONE

    def top(self, split_id: str) -> Key:
        """Return the key of the root of a split's counter; the number of parts is not needed."""
        return f"{self.service}/L#{split_id}#top", ALONE

    def page(self, split_id: str, run: str, page: int) -> Key:
        """Return the key of a page of parts that one run of a split wrote."""
        return f"{self.service}/P#{split_id}#{run}#{page}", ALONE

    def data_piece(self, split_id: str, run: str, piece: int) -> Key:
        """Return the key of a piece of an event's data that was too large for the seal."""
        return f"{self.service}/P#{split_id}#{run}#d{piece}", ALONE

    def results(self, split_id: str, leaf: int) -> str:
        """Return the pk of the results of one leaf's parts, in order."""
        return f"{self.service}/R#{split_id}#{leaf}"

    def result(self, part: PartRef) -> Key:
        """Return the key of a part's result."""
        return self.results(part.split_id, part.ordinal // FAN_OUT), f"{part.ordinal:09d}"

    def attempts(self, task_id: str, message_id: str) -> Key:
        """Return the key of a message's attempts."""
        return f"{self.service}/T#{task_id}#{message_id}", ALONE

    def chord(self, chord_id: str) -> Key:
        """Return the key of a chord, whose id is that of its header's group."""
        return f"{self.service}/H#{chord_id}", ALONE

    def chord_leaf(self, chord_id: str, leaf: int) -> str:
        """Return the pk of the ends of header tasks with neighbouring indexes, in order."""
        return f"{self.service}/H#{chord_id}#{leaf}"

    def chord_part(self, chord_id: str, leaf: int, index: int, task_id: str) -> Key:
        """Return the key of the end of a header task."""
        return self.chord_leaf(chord_id, leaf), f"{index:09d}.{task_id}"

    def task_result(self, task_id: str) -> Key:
        """Return the key of the result of a plain task."""
        return f"{self.service}/K#{task_id}", ALONE

    def group_result(self, group_id: str) -> Key:
        """Return the key of the ids of a saved group's tasks."""
        return f"{self.service}/G#{group_id}", ALONE

    def cancellations(self) -> str:
        """Return the pk of all cancelled jobs, in the order of their cancellation."""
        return f"{self.service}/C"

    def cancellation(self, job_id: str, cancelled_at: float) -> Key:
        """Return the key of the record that a job was cancelled."""
        return self.cancellations(), moment(cancelled_at, job_id)

    def turn(self, name: str) -> Key:
        """Return the key of the turn at a duty that one process at a time has."""
        return f"{self.service}/U#{name}", ALONE

    def schedules(self) -> str:
        """Return the pk of all schedules."""
        return f"{self.service}/S"

    def schedule(self, name: str) -> Key:
        """Return the key of the record of a schedule."""
        return self.schedules(), name

    def deployments(self) -> str:
        """The pk under which the versions of the service's stages are."""
        return f"{self.service}/V"

    def index_shards(self) -> Key:
        """Return the key of the record of how many shards of the index may have entries."""
        return f"{self.service}/I", ALONE

    # ─── The index: jobs by time of submission ───

    def open_shard(self, shard: int) -> str:
        """Return the index partition of running jobs."""
        return f"{self.service}/open#{shard}"

    def closed_shard(self, state: JobState, day: str, shard: int) -> str:
        """Return the index partition of jobs in ``state`` submitted on ``day`` (YYYY-MM-DD, UTC)."""
        return f"{self.service}/{state.value}#{day}#{shard}"

    def entity(self, entity_id: str) -> str:
        """Return the partition of an entity's jobs in the index by entity.

        AWS shows keys in logs and reports, so it has a hash, which also fits for the longest entity.
        """
        return f"{self.service}/E#{hashlib.sha256(entity_id.encode()).hexdigest()[:32]}"

    def index(self, state: JobState, job_id: str, submitted_at: float, shards: int) -> Key:
        """Return a job's key in the index, whose entries are spread over so many shards."""
        shard = zlib.crc32(job_id.encode()) % shards
        if state is JobState.RUNNING:
            return self.open_shard(shard), moment(submitted_at, job_id)
        return self.closed_shard(state, day_of(submitted_at), shard), moment(submitted_at, job_id)


def moment(seconds: float, job_id: str = "") -> str:
    """Return the sort key of a job by a moment of it; also the cursor of a list of jobs.

    Without a job id it sorts before all jobs of that moment.
    """
    return f"{seconds:014.3f}#{job_id}"


def day_of(submitted_at: float) -> str:
    """Return the UTC day of a moment, as the index names it."""
    return time.strftime("%Y-%m-%d", time.gmtime(submitted_at))


def beginning_of(day: date) -> float:
    """Return the moment at which a UTC day begins, in seconds since 1970."""
    return datetime.combine(day, time_of_day(), UTC).timestamp()


def part_name(ref: Ref) -> str:
    """Return the name of a task in its stage: ``run``, ``split``, ``page-3``, ``gather``, or an ordinal."""
    match ref:
        case StageRef():
            return "gather" if ref.gather else "run"
        case SplitRef():
            return "split" if ref.page is None else f"page-{ref.page}"
        case PartRef():
            return f"{ref.ordinal:09d}"
