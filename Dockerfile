# One image with all programs; compose.yaml, deploy/helm and deploy/aws choose the program of each container. It has no shell, runs
# without rights and writes nothing, so its root can be read-only. Health is for the platform to check: see docs/operations.md.
#
# BuildKit (Docker 23 and later) keeps the caches of npm and cargo between builds, so that a build compiles only what has changed.

# These two stages have the same result on each architecture, so they run on that of the machine.
FROM --platform=$BUILDPLATFORM node:22-bookworm-slim AS web
WORKDIR /src
# The packages are a layer of their own, which other changes leave as it is.
COPY scripts/npm-ci scripts/with-node scripts/
COPY web/package.json web/package-lock.json web/
RUN --mount=type=cache,target=/root/.npm scripts/npm-ci web
COPY . .
RUN scripts/build-web

FROM --platform=$BUILDPLATFORM node:22-bookworm-slim AS certificates
WORKDIR /src
COPY scripts/npm-ci scripts/with-node scripts/
COPY deploy/certificates deploy/certificates
RUN --mount=type=cache,target=/root/.npm scripts/npm-ci deploy/certificates
WORKDIR /src/deploy/certificates
RUN npm run --silent print >/aws-rds.pem

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
COPY --from=web /src/web/dist web/dist
# The directory .git is not part of the context.
ARG COMMIT=unknown
# Each architecture has its own cache.
ARG TARGETARCH
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=order-service-$TARGETARCH,sharing=locked \
    COMMIT=$COMMIT scripts/build /out

# With the C library of the stage above, the certificate authorities of the system, and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
# For sslrootcert in DATABASE_URL: the authorities of the system do not sign the certificates of Amazon RDS.
COPY --from=certificates /aws-rds.pem /etc/ssl/certs/aws-rds.pem
COPY --from=build /out/ /usr/local/bin/
# Where the system gives huge pages to every program; Cargo.toml says why not (no_thp).
ENV MIMALLOC_ALLOW_THP=0
USER 65532:65532
EXPOSE 8080 8081 9464
CMD ["api"]
