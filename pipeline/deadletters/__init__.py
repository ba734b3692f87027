"""Dead letters: listing, redrive, removal and explanation; and the sweep of jobs that stopped."""

from pipeline.deadletters.bulk import redrive_all, remove_all
from pipeline.deadletters.finding import Finding
from pipeline.deadletters.jobsweep import IDLE, JobSweep
from pipeline.deadletters.letter import DeadLetter, Filter, LetterRow, Place, place_of
from pipeline.deadletters.listing import Listing
from pipeline.deadletters.redrive import Redriver, RedriveResult

__all__ = [
    "IDLE",
    "DeadLetter",
    "Filter",
    "Finding",
    "JobSweep",
    "LetterRow",
    "Listing",
    "Place",
    "RedriveResult",
    "Redriver",
    "place_of",
    "redrive_all",
    "remove_all",
]
