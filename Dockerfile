# The service with the package of the latest run: no compiler, not root. Two targets: `cpu`, the default, has no torch;
# `gpu` has torch with the CUDA libraries of its wheels, so it needs no CUDA base image, only a driver on the host.
#   docker build -t graft-service .
#   docker run --read-only --tmpfs /tmp --stop-timeout 20 -p 3000:3000 -e GRAFT_API_KEY=... graft-service
#   docker build --target gpu -t graft-service-gpu .
#   docker run --gpus 1 --read-only --tmpfs /tmp --stop-timeout 20 -p 3000:3000 -e GRAFT_API_KEY=... graft-service-gpu
# The tag can move. For a build that can be repeated, name the image by its digest, which `docker buildx imagetools inspect` prints:
#   docker build --build-arg BASE_IMAGE=python:3.11-slim@sha256:... -t graft-service .
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE} AS base

# The service writes only to BentoML's home, so a read-only root needs only a volume at /tmp.
# BENTOML_CONTAINERIZED is not set: with it, BentoML would not restart a dead worker. A failed start exits without it too.
WORKDIR /graft
RUN useradd --no-create-home --uid 10001 graft && python3 -m venv /opt/graft
ENV PATH=/opt/graft/bin:$PATH \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    GRAFT_PACKAGE=/graft/package \
    PYTHONUNBUFFERED=1
EXPOSE 3000
HEALTHCHECK --interval=10s --start-period=60s --timeout=3s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
CMD ["bentoml", "serve", "service.app:Graft", "--host", "0.0.0.0", "--port", "3000"]

# The code and the package. For another run: --build-arg PACKAGE=runs/NAME/package
FROM base AS files
COPY service service
ARG PACKAGE=runs/latest-package
COPY ${PACKAGE} package

# In both targets a package that cannot be served, such as one in another format, fails the build instead of the deployment.
FROM base AS gpu
COPY requirements-gpu.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements-gpu.lock
COPY --from=files /graft .
RUN python3 -m compileall -q service \
 && python3 -c "from service.lifecycle import check_package; check_package()"
USER graft

FROM base AS cpu
COPY requirements-service.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements-service.lock
COPY --from=files /graft .
RUN python3 -m compileall -q service \
 && python3 -c "from service.lifecycle import check_package; check_package()"
USER graft
