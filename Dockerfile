FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && python -m venv --without-pip /opt/collectkit \
    && pip --python /opt/collectkit/bin/python install --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY collectkit collectkit
COPY collectors collectors
COPY service service
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir dist . \
    && pip --python /opt/collectkit/bin/python install --no-deps --no-index dist/*.whl \
    && /opt/collectkit/bin/python -m compileall -q /opt/collectkit

FROM python:3.13-slim
# Some feeds are git repositories.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 collectkit \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/collectkit --create-home --shell /usr/sbin/nologin collectkit
COPY --from=build /opt/collectkit /opt/collectkit
ENV PATH=/opt/collectkit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COLLECTKIT_BIND=0.0.0.0:8000 \
    COLLECTKIT_LOG_FORMAT=json \
    COLLECTKIT_STATE_DIR=/var/lib/collectkit
# Collectors mounted at /srv/collectkit/collectors join the shipped ones.
WORKDIR /srv/collectkit
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["collectkit"]
CMD ["--help"]
