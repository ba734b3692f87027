"""The jobs page and its API: jobs, stages, queues and dead letters in a browser. Needs the extra ``web``."""
