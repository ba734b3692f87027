"""Jobs, splits and attempts: what is recorded of the work, and the only door to DynamoDB."""

from pipeline.jobs.attempts import Attempts, PastAttempts, Verdict
from pipeline.jobs.chordrecords import ChordPart, ChordRecords, Decision, PartEnd, PartFailure
from pipeline.jobs.errors import TaskOverError
from pipeline.jobs.keys import moment
from pipeline.jobs.listing import JobListing
from pipeline.jobs.looks import TOGETHER, Look
from pipeline.jobs.model import (
    Closing,
    Done,
    DoneTasks,
    FailedTask,
    FailureRecord,
    Filled,
    Job,
    JobFailed,
    JobFilled,
    JobPage,
    JobState,
    KeptResult,
    NewJob,
    Opened,
    PartDone,
    PartPage,
    PartResult,
    PartRow,
    Recorded,
    SealedPart,
    SealedSplit,
    SplitFilled,
    StageDone,
    StageProgress,
)
from pipeline.jobs.passes import Pass, Passes
from pipeline.jobs.refs import PartRef, Ref, SplitRef, StageRef, ref_of, split_ref
from pipeline.jobs.schedulerecords import BEAT_PREFIX, ScheduleRecord, ScheduleRecords
from pipeline.jobs.schema import TableReport, WriteCapacity
from pipeline.jobs.splits import is_small, tolerated_parts
from pipeline.jobs.store import JobStore
from pipeline.jobs.taskresults import RecordedResult, TaskResults
from pipeline.wire.plans import JobPlan

__all__ = [
    "BEAT_PREFIX",
    "TOGETHER",
    "Attempts",
    "ChordPart",
    "ChordRecords",
    "Closing",
    "Decision",
    "Done",
    "DoneTasks",
    "FailedTask",
    "FailureRecord",
    "Filled",
    "Job",
    "JobFailed",
    "JobFilled",
    "JobListing",
    "JobPage",
    "JobPlan",
    "JobState",
    "JobStore",
    "KeptResult",
    "Look",
    "NewJob",
    "Opened",
    "PartDone",
    "PartEnd",
    "PartFailure",
    "PartPage",
    "PartRef",
    "PartResult",
    "PartRow",
    "Pass",
    "Passes",
    "PastAttempts",
    "Recorded",
    "RecordedResult",
    "Ref",
    "ScheduleRecord",
    "ScheduleRecords",
    "SealedPart",
    "SealedSplit",
    "SplitFilled",
    "SplitRef",
    "StageDone",
    "StageProgress",
    "StageRef",
    "TableReport",
    "TaskOverError",
    "TaskResults",
    "Verdict",
    "WriteCapacity",
    "is_small",
    "moment",
    "ref_of",
    "split_ref",
    "tolerated_parts",
]
