# CPU by default:  docker build -t flexdemo .
# NVIDIA GPU:      docker build -t flexdemo-cuda --build-arg ACCELERATOR=cuda .
FROM python:3.12-slim

ARG ACCELERATOR=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_CUDA_INDEX=https://download.pytorch.org/whl/cu130

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Compiled FlexAttention builds its kernels' launchers with a C compiler when it first runs on a GPU.
# The distribution's compiler is taken as it is: its version changes no result.
# hadolint ignore=DL3008
RUN if [ "$ACCELERATOR" = cuda ]; then \
      apt-get update && \
      apt-get install --yes --no-install-recommends gcc libc6-dev && \
      rm -rf /var/lib/apt/lists/*; \
    fi

RUN useradd --create-home --uid 1000 user && \
    install --directory --owner=1000 --group=1000 /data/hf

WORKDIR /app

COPY requirements.txt ./
RUN index="$TORCH_CPU_INDEX" && \
    if [ "$ACCELERATOR" = cuda ]; then index="$TORCH_CUDA_INDEX"; fi && \
    grep '^torch>' requirements.txt > /tmp/torch.txt && \
    pip install --no-cache-dir --index-url "$index" -r /tmp/torch.txt && \
    pip install --no-cache-dir -r requirements.txt && \
    rm /tmp/torch.txt

COPY LICENSE README.md app.py ./
COPY assets ./assets
COPY flexdemo ./flexdemo
RUN python -m compileall -q app.py flexdemo

ENV PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_TEMP_DIR=/tmp/gradio \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HOME=/data/hf \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton

USER 1000
EXPOSE 7860

HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['GRADIO_SERVER_PORT'] + '/healthz', timeout=4)"]

ENTRYPOINT ["python", "app.py"]
