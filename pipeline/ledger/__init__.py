"""The ledger: open, record, fail and close jobs, in the one order that loses nothing."""

from pipeline.ledger.dispatch import Dispatch, gather_of
from pipeline.ledger.ledger import EmittedTask, Ledger

__all__ = ["Dispatch", "EmittedTask", "Ledger", "gather_of"]
