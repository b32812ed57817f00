# What SageMaker runs: `train` and `serve` on the PATH. sagehound launch image=ecr builds and pushes it.
FROM python:3.11-slim

WORKDIR /opt/sagehound
COPY pyproject.toml requirements.lock README.md LICENSE train.py launch.py ./
COPY src src
COPY launchers launchers
COPY conf conf
# torch.compile calls a C compiler
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# the versions of requirements.lock, but of what a container needs alone
RUN pip install --no-cache-dir "$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)" \
    && uv pip install --system --no-cache --compile-bytecode --constraint requirements.lock \
        --editable '.[serve,debugger,demo,heif,int8]' \
    && pip uninstall --yes uv
RUN for name in train serve; do \
        printf '#!/usr/bin/env python\nfrom sagehound.cli.sagemaker_container import %s\n\n%s()\n' $name $name > /usr/local/bin/$name \
        && chmod +x /usr/local/bin/$name; \
    done

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PYTHONUNBUFFERED=1 SAGEHOUND_HOME=/opt/sagehound SAGEHOUND_CACHE=/tmp/sagehound
# several models behind one endpoint, and the port that SageMaker chooses
LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
EXPOSE 8080
