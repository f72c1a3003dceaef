# The image that runs every part of the pipeline on a cluster (docs/delivery.md):
#   docker build --tag ssd .
#   docker build --tag ssd:gpu --build-arg VARIANT=gpu .
#   docker build --target check .           imports, converts, trains, evaluates, predicts
#   docker build --tag ssd:beam --target beam-worker .

# Debian 12 with the Python that TFX 1.16 needs; Debian 12 has 3.11.
ARG BASE=docker.io/library/python:3.10.21-slim-bookworm@sha256:7ed92b32353e8d8bd865b5ba811e0315d3999c3b57b1c2df2b504a359d4a1707
# Has the boot program with which Beam's cluster runners start workers; same version as in
# requirements.lock.
ARG BEAM=docker.io/apache/beam_python3.10_sdk:2.74.0


FROM ${BASE} AS environment
ARG VARIANT=cpu
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.9
WORKDIR /source
COPY .python-version requirements.in requirements.lock overrides.txt ./
COPY docker ./docker
RUN --mount=type=cache,target=/var/cache/uv \
    UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy sh docker/install.sh environment /opt/ssd "$VARIANT"


FROM environment AS package
COPY . .
RUN UV_NO_CACHE=1 sh docker/install.sh package /opt/ssd


FROM ${BASE} AS runtime
# Kubeflow's launcher creates the artifact folders as the image's user, who may not write to /. Since
# 2.3 it mounts volumes there.
RUN groupadd --gid 10001 ssd && useradd --uid 10001 --gid ssd --no-log-init --create-home ssd && \
    install --directory --owner ssd --group ssd /gcs /minio /s3
COPY --from=environment /opt/ssd/venv /opt/ssd/venv
COPY --from=package /opt/ssd/code /opt/ssd/code
# What NVIDIA's container runtime adds when a pod requests a GPU. The cluster chooses the GPUs: with
# NVIDIA_VISIBLE_DEVICES set here, any container of this image would see all of them.
ENV PATH=/opt/ssd/venv/bin:/opt/ssd/code/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A number, so that Kubernetes can check that it is not root.
USER 10001:10001
WORKDIR /home/ssd


FROM runtime AS check
COPY docker/check.py /tmp/check.py
RUN test -w /gcs -a -w /minio -a -w /s3 && python /tmp/check.py


FROM ${BEAM} AS beam-sdk


FROM runtime AS beam-worker
COPY --from=beam-sdk /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]


FROM runtime AS pipeline
CMD ["ssd", "--help"]
