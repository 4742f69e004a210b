# docker build -t nemo_dreamfusion .                    the package, ready to run
# docker build --target test -t nemo_dreamfusion:test . the same, after its tests have passed
# The base image's own torch stays: a constraints file made from what is installed keeps pip from replacing it.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.12-py3

FROM ${BASE_IMAGE} AS base
# The base image constrains every package to the one it was built with. Only those that belong to its torch must stay.
ENV PIP_CONSTRAINT= \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HYDRA_FULL_ERROR=1
WORKDIR /opt/nemo_dreamfusion

# Requirements first, so that a change of the sources does not install them again.
COPY requirements /opt/nemo_dreamfusion/requirements
RUN pip list --format=freeze | grep -E '^(torch|torchvision|torchaudio|triton|pytorch[-_]triton)==' > /opt/torch-constraints.txt; \
    grep -q '^torch==' /opt/torch-constraints.txt \
      || { echo 'BASE_IMAGE holds no torch: choose one of the NGC PyTorch images'; exit 1; }
RUN pip install -c /opt/torch-constraints.txt -r requirements/requirements.txt -r requirements/nerfacc.txt -r requirements/vsd.txt -r requirements/assets.txt

COPY LICENSE MANIFEST.in Makefile README.md pyproject.toml setup.py /opt/nemo_dreamfusion/
COPY nemo_dreamfusion /opt/nemo_dreamfusion/nemo_dreamfusion
COPY examples /opt/nemo_dreamfusion/examples
RUN pip install 'setuptools>=70.1' && pip install --no-build-isolation --no-deps -e .

# The NeMo launcher starts this fixed path: .../x_to_nerf/nerf/main.py
RUN mkdir -p /opt/NeMo/examples/multimodal \
    && ln -s /opt/nemo_dreamfusion/examples /opt/NeMo/examples/multimodal/x_to_nerf

FROM base AS test
RUN pip install -c /opt/torch-constraints.txt -r requirements/test.txt -r requirements/docs.txt -r requirements/onnxruntime.txt \
        -r requirements/sweep.txt -r requirements/submitit.txt -r requirements/triton.txt \
    && pip install --no-deps -r requirements/open_clip.txt
COPY . /opt/nemo_dreamfusion
RUN python -m pytest --doctest-modules -ra

FROM base AS release
CMD ["nemo-dreamfusion"]
