"""The worker: pool processes run the tasks, their parent settles the outcomes."""
