"""An open Flower is refused: who reaches it can stop workers and run tasks."""

import click

from pipeline.worker.refused import StartRefused

#: Addresses that only this machine reaches.
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def refuse_open_flower() -> None:
    """Raise ``StartRefused`` where this process is a Flower that asks nobody who they are.

    Called when Flower loads the tasks: its options are read then, and it listens nowhere yet.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "flower":
        return
    from tornado.options import options

    # An empty variable makes Flower's list of passwords one empty string.
    asks = any(options.basic_auth or ()) or options.auth
    if not (asks or options.unix_socket or options.address in LOOPBACK):
        raise StartRefused(
            "Flower can stop workers and run tasks, and would ask nobody who they are. Set "
            "FLOWER_BASIC_AUTH=name:password or Flower's OAuth, or --address=127.0.0.1 for this machine only."
        )
