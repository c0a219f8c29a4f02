# trimkit serve (on transformers), trimkit encode-server and trimkit batch. Build it from the root of the repository:
#   docker build -f deploy/docker/server.Dockerfile -t trimkit-server:latest .
# With a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.12.11-slim-bookworm AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/trimkit
COPY pyproject.toml README.md LICENSE NOTICE constraints.txt ./
COPY src ./src
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" torch \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[serve]"

FROM python:3.12.11-slim-bookworm

# The cache is the user's own: a volume that is mounted there takes over whose it is.
RUN useradd --uid 10001 --create-home trimkit \
    && install --directory --owner=trimkit --group=trimkit /home/trimkit/.cache /home/trimkit/.cache/huggingface
COPY --from=build /opt/venv /opt/venv
USER 10001
WORKDIR /home/trimkit
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/home/trimkit/.cache/huggingface

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["trimkit"]
CMD ["serve", "demo", "--engine", "transformers", "--host", "0.0.0.0"]
