"""Send the bill: a file stands for the mail."""

from pathlib import Path

from pipeline import stage
from tasks.orders import Bill

FOLDER = Path("mails")


@stage(consumes="order-priced", ordered=True)
def mail(bill: Bill) -> None:
    """Write the bill to a file below the worker's folder. The mails of one customer keep their order."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{bill.customer}.mail").write_text(bill.model_dump_json())
