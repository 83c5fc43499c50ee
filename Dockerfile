# The service for CPUs, with the package of the latest run: no torch, no compiler, not root.
#   docker build -t graft-service .
#   docker run --read-only --tmpfs /tmp --stop-timeout 20 -p 3000:3000 -e GRAFT_API_KEY=... graft-service
# The tag can move. For a build that can be repeated, name the image by its digest, which `docker buildx imagetools inspect` prints:
#   docker build --build-arg BASE_IMAGE=python:3.11-slim@sha256:... -t graft-service .
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

WORKDIR /graft
COPY requirements-service.lock .
RUN python3 -m venv /opt/graft \
 && /opt/graft/bin/pip install --no-cache-dir --require-hashes -r requirements-service.lock

# The service writes only to BentoML's home, so a read-only root needs only a volume at /tmp.
# BENTOML_CONTAINERIZED is not set: with it, BentoML would not restart a dead worker. A failed start exits without it too.
RUN useradd --no-create-home --uid 10001 graft
ENV PATH=/opt/graft/bin:$PATH \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    GRAFT_PACKAGE=/graft/package \
    PYTHONUNBUFFERED=1
COPY service service

# For another run: --build-arg PACKAGE=runs/NAME/package
ARG PACKAGE=runs/latest-package
COPY ${PACKAGE} package
# A package that cannot be served, such as one in another format, fails the build instead of the deployment.
RUN python3 -m compileall -q service \
 && python3 -c "from service.lifecycle import check_package; check_package()"

USER graft
EXPOSE 3000
HEALTHCHECK --interval=10s --start-period=30s --timeout=3s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
CMD ["bentoml", "serve", "service.app:Graft", "--host", "0.0.0.0", "--port", "3000"]
