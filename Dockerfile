# The page of `huref serve`, on CPUs; docs/serve.md says how to run it.
#
#     docker build -t huref .
FROM python:3.13-slim

# The torch that pip finds by itself brings 3 GB of CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.4,<3"
# Mounted, not copied: files that a later step removes stay in the image.
RUN --mount=type=bind,target=/src pip install --no-cache-dir "/src[serve,map]"
# The cache is there so that a volume mounted on it belongs to its user.
RUN useradd --create-home --uid 1000 huref && mkdir /models && \
    install --directory --owner=huref --group=huref /home/huref/.cache

USER huref
WORKDIR /models
EXPOSE 7860
# It stops at once without HUREF_SERVE_TOKEN, since other machines can reach it.
CMD ["huref", "serve", "--host", "0.0.0.0", "--port", "7860", "--root", "/models", "--no-browser"]
