"""The worker: children run the tasks, the parent settles what came of them."""
