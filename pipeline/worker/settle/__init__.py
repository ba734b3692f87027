"""Settlement: what follows a task's run, in the worker's parent process."""
