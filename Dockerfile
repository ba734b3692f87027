# One image for every process of this project: bridge, worker, Flower and the pipeline command.
FROM python:3.13-slim AS build
WORKDIR /source
RUN python -m venv /opt/pipeline
COPY pyproject.toml README.md ./
COPY pipeline pipeline
COPY config config
COPY consumers consumers
COPY tasks tasks
# Which extras the image has: add sentry, otel or vault as production needs them.
ARG EXTRAS=flower,web
RUN /opt/pipeline/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM python:3.13-slim
COPY --from=build /opt/pipeline /opt/pipeline
ENV PATH=/opt/pipeline/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --create-home --home-dir /home/pipeline pipeline
WORKDIR /home/pipeline
USER 10001
# Celery's warm shutdown: running tasks end, waiting ones go back to the queue.
STOPSIGNAL SIGTERM
CMD ["pipeline", "--help"]
