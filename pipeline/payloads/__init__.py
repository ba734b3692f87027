"""The door to S3: data that is too large for the message, record or item that names it."""

from pipeline.payloads.events import LARGEST_VALUE, referenced
from pipeline.payloads.messages import Shrink, shrinking
from pipeline.payloads.store import SET_BUCKET, Payloads, PayloadsOffError

__all__ = ["LARGEST_VALUE", "SET_BUCKET", "Payloads", "PayloadsOffError", "Shrink", "referenced", "shrinking"]
