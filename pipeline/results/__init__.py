"""Results of plain tasks: what Celery's ``AsyncResult`` and ``GroupResult`` ask for, on the jobs table."""
