"""Dead letters: looked at without losing or hiding one, redriven, removed, and explained."""

from pipeline.deadletters.campaign import redrive_all, remove_all
from pipeline.deadletters.events import DLQ_HEADERS
from pipeline.deadletters.filters import Filter
from pipeline.deadletters.letter import DeadLetter, Place
from pipeline.deadletters.look import Look
from pipeline.deadletters.redrive import Redriven, Redriver

__all__ = [
    "DLQ_HEADERS",
    "DeadLetter",
    "Filter",
    "Look",
    "Place",
    "Redriven",
    "Redriver",
    "redrive_all",
    "remove_all",
]
