# The service on a CPU, with one package inside: no torch, no compiler, not root.
#   docker build -t graft-service . && docker run -p 3000:3000 graft-service
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

WORKDIR /graft
COPY requirements-service.lock .
RUN python3 -m venv /opt/graft \
 && /opt/graft/bin/pip install --no-cache-dir --require-hashes -r requirements-service.lock

# The latest run's package; another one: --build-arg PACKAGE=runs/my-run/package
ARG PACKAGE=runs/latest/package
COPY ${PACKAGE} /graft/package
COPY service /graft/service

# A home that the service may write to; BentoML keeps its metrics there. Containerized: a failed start ends the container.
RUN useradd --create-home --uid 10001 graft && mkdir /home/graft/bentoml && chown graft /home/graft/bentoml
USER graft
ENV PATH=/opt/graft/bin:$PATH \
    BENTOML_HOME=/home/graft/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    BENTOML_CONTAINERIZED=true \
    GRAFT_PACKAGE=/graft/package \
    PYTHONUNBUFFERED=1
EXPOSE 3000
HEALTHCHECK --interval=10s --start-period=30s --timeout=3s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
CMD ["bentoml", "serve", "service.app:Graft", "--host", "0.0.0.0", "--port", "3000"]
