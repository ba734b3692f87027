# The engine, for every process: bridge, worker, Flower and the pipeline command. It holds no stages. An image of a
# service begins FROM this one and copies its own packages, as the target "service" does.

# A tag is rebuilt with fixes, a digest never changes: give "python:3.13-slim@sha256:…" where builds must be the same.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
WORKDIR /source
COPY requirements.lock requirements-build.lock ./
# Only wheels whose hashes are locked: a source package would run its own code, and fetch what builds it.
ENV PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1
RUN python -m venv /opt/pipeline && /opt/pipeline/bin/pip install -r requirements.lock
# What builds the project's own wheel stays out of the image.
RUN python -m venv /opt/build && /opt/build/bin/pip install -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
ENV PIP_REQUIRE_HASHES=0 PIP_NO_INDEX=1 PIP_NO_DEPS=1
RUN /opt/build/bin/pip wheel --no-build-isolation --wheel-dir /wheels . \
    && /opt/pipeline/bin/pip install /wheels/*.whl \
    && /opt/pipeline/bin/pip check

FROM ${PYTHON} AS engine
COPY --from=build /opt/pipeline /opt/pipeline
ENV PATH=/opt/pipeline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --create-home --home-dir /home/pipeline pipeline
WORKDIR /home/pipeline
USER 10001
# Celery's warm shutdown: running tasks end, waiting ones go back to the queue.
STOPSIGNAL SIGTERM
CMD ["pipeline", "--help"]

# The service of this repository: its stages and its Kafka side, found in the folder that the processes start in.
FROM engine AS service
COPY consumers consumers
COPY tasks tasks

# The last one is built where no target is named: no example runs by accident.
FROM engine
