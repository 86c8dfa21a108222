# The image of every worker, server and job: `docker build --tag prebuilds .`. The base is pinned by digest, so that two
# builds of a commit have the same base. Its security fixes come with a newer digest:
# `docker build --build-arg PYTHON=python:3.13-slim-trixie@sha256:...`.
ARG PYTHON=python:3.13-slim-trixie@sha256:ffb752e139c0a19692a43af8d8523b274222dd68eebad5d583b45c2201c6e30a

FROM ${PYTHON} AS build
WORKDIR /source
COPY requirements-build.lock requirements-runtime.lock ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
    && python -m venv --without-pip /opt/prebuilds \
    && pip --python /opt/prebuilds install --no-cache-dir --require-hashes --only-binary :all: -r requirements-runtime.lock
COPY pyproject.toml hatch_build.py README.md LICENSE worker.py ./
COPY prebuilds prebuilds
COPY workflows workflows
COPY activities activities
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
    && pip --python /opt/prebuilds install --no-cache-dir --no-deps /wheel/*.whl

FROM ${PYTHON}
# tini is the first process: it passes signals on, and reaps what workspaces of the `process` driver leave behind.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 prebuilds \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/prebuilds prebuilds \
    && install -d -o 10001 -g 10001 /var/lib/prebuilds
COPY --from=build /opt/prebuilds /opt/prebuilds
COPY deploy/image/healthcheck.py /opt/prebuilds/healthcheck.py
# The metrics server also says that the process lives. It listens inside the container alone, unless
# PREBUILDS_METRICS_HOST says otherwise.
ENV PATH=/opt/prebuilds/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PREBUILDS_STATE_DIR=/var/lib/prebuilds \
    PREBUILDS_METRICS_PORT=9464
# A number, so that Kubernetes sees that it is not root.
USER 10001:10001
WORKDIR /var/lib/prebuilds
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/prebuilds/healthcheck.py"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["prebuilds", "worker"]
