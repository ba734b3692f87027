"""``python -m pipeline.cli.sqs_monitor``: the flags of ``pipeline monitor sqs``."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["monitor", "sqs", *sys.argv[1:]], prog_name="pipeline")
