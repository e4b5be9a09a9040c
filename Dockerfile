# One static binary in an image that holds nothing else but CA certificates,
# time zones and the user nonroot (65532). There is no shell in it.
#
#   docker build -t urbandata .
#   docker run -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -v urbandata:/data urbandata
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/urbandata/urbandata/pkg/cli.release=$VERSION" -o /out/urbandata .
# A folder to be mounted over: a new volume takes its owner and mode from it.
RUN mkdir -m 700 /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/urbandata /usr/local/bin/urbandata
COPY --from=build --chown=65532:65532 /out/data /data
# In a container the ports that are published decide who gets in.
ENV URBANDATA_AUTH_LISTEN=0.0.0.0:8000 \
    URBANDATA_API_LISTEN=0.0.0.0:8001 \
    URBANDATA_DATA_DIR=/data
USER 65532:65532
VOLUME /data
EXPOSE 8000 8001
# No HEALTHCHECK: it would have to run something in here. Whoever places the
# containers asks /readyz by HTTP (Kubernetes: httpGet; compose.yaml: HAProxy).
ENTRYPOINT ["/usr/local/bin/urbandata"]
