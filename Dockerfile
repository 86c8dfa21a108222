FROM python:3.12-slim
WORKDIR /app
COPY requirements.lock pyproject.toml hatch_build.py README.md LICENSE ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY prebuilds prebuilds
COPY workflows workflows
COPY activities activities
COPY worker.py ./
RUN pip install --no-cache-dir --no-deps . \
    && useradd --system --create-home prebuilds \
    && install -d -o prebuilds /var/lib/prebuilds
USER prebuilds
CMD ["prebuilds", "worker"]
