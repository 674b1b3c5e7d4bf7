# The container of docs/runbook.md: Python 3.12, a non-root user, data, outputs and the model cache mounted from outside.
#   docker build -t qwen3-vlm .
#   docker run --rm qwen3-vlm qwen3-vlm --help
# The torch wheel for Linux brings its own CUDA libraries; the host needs a driver and the NVIDIA container toolkit.
FROM python:3.12.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 --user-group app
WORKDIR /workspace/qwen3-vlm

# Dependencies first: they change less often than the code, and a layer that did not change is not built again. All have
# the hashes of the lock but torch, which brings CUDA libraries that fit this machine.
COPY --chown=app:app constraints.txt ./
COPY --chown=app:app locks/run.txt locks/run.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --no-deps -r locks/run.txt \
    && /opt/venv/bin/pip install -c constraints.txt torch

COPY --chown=app:app . .
RUN /opt/venv/bin/pip install --no-deps --no-build-isolation -e eyechart -e . \
    && mkdir -p data outputs /home/app/.cache/huggingface \
    && chown -R app:app /workspace/qwen3-vlm /home/app

ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/home/app/.cache/huggingface
USER 1000:1000
VOLUME ["/workspace/qwen3-vlm/data", "/workspace/qwen3-vlm/outputs", "/home/app/.cache/huggingface"]
CMD ["qwen3-vlm", "trial"]
