# Base images are arguments, so that a mirror can be named. Without BuildKit, too.
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=scratch

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What `topostream version` says: there is no .git here.
ARG VERSION=
ARG COMMIT=
RUN CGO_ENABLED=0 go build -tags nodev -trimpath -ldflags="-s -X main.release=${VERSION} -X main.revision=${COMMIT}" \
    -o /topostream ./cmd/topostream

# `mutator --apply-exec` wants sh and what the command needs: name a BASE_IMAGE that has them.
FROM ${BASE_IMAGE}
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /topostream /topostream
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/topostream"]
# Of `serve` on port 8080; another command, or another port, gives its own: TOPOSTREAM_ADDR says which. Whoever restarts
# what is unhealthy would end all streams for a database that is away, which streams outlive.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["/topostream", "health", "--exclude", "database"]
