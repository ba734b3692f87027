"""``python -m pipeline.cli.kafka_monitor``: the flags of ``pipeline monitor kafka``."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["monitor", "kafka", *sys.argv[1:]], prog_name="pipeline")
