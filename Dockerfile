# One image with all programs; compose.yaml chooses the program of each container.
FROM node:22-bookworm-slim AS web
WORKDIR /src
COPY . .
RUN scripts/build-web

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
COPY --from=web /src/web/dist web/dist
# The directory .git is not part of the context.
ARG COMMIT=unknown
RUN COMMIT=$COMMIT scripts/build /out

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
USER 65534:65534
EXPOSE 8080 8081
CMD ["api"]
