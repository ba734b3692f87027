"""The code of a pool process: it runs a task and sends the outcome to the parent."""
