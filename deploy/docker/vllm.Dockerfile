# vLLM's own image with trimkit's plugin in it. Build it from the root of the repository:
#   docker build -f deploy/docker/vllm.Dockerfile -t trimkit-vllm:0.32.0 .
FROM vllm/vllm-openai:v0.32.0

WORKDIR /opt/trimkit
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src

# Without dependencies: the image has them all, in the versions that this vLLM was built for. The second line says if it has not.
RUN uv pip install --system --no-cache --no-deps . \
    && trimkit --version

# The cache is the user's own: a volume that is mounted there takes over whose it is.
RUN useradd --uid 10001 --create-home trimkit \
    && install --directory --owner=trimkit --group=trimkit /home/trimkit/.cache /home/trimkit/.cache/huggingface
USER 10001
WORKDIR /home/trimkit
ENV HF_HOME=/home/trimkit/.cache/huggingface \
    VLLM_NO_USAGE_STATS=1

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["vllm", "serve"]
CMD ["--help"]
