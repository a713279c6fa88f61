# The image below can be replaced, by a mirror or by a local one (see scripts/check-image).
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm

FROM ${RUST_IMAGE} AS builder
WORKDIR /build

# A static binary: it brings its own C library and needs no system around it. With glibc, not musl: names are looked
# up as everywhere else. The target is named, so that what runs in the compiler is built as usual. The allocator is C
# that writes down when it was built; with a fixed date the same sources make the same binary.
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_PROFILE_RELEASE_STRIP=symbols \
    SOURCE_DATE_EPOCH=0

# Dependencies alone, with an empty program: this layer is built anew only when Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches \
 && echo '//! Empty.' | tee src/lib.rs benches/parts.rs src/main.rs > /dev/null \
 && echo 'fn main() {}' >> src/main.rs \
 && cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && rm -rf src

COPY src src
COPY lua lua
# Cargo goes by file times, and those of a checkout may be older than the empty program's.
RUN find src lua -type f -exec touch {} + \
 && target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --target "$target" \
 && cp "target/$target/release/switchboard" /usr/local/bin/switchboard


FROM scratch

LABEL org.opencontainers.image.title="Switchboard" \
      org.opencontainers.image.description="A Redis-centric, stateless WebSocket relay" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

# Whom to trust with rediss:// where REDIS_CA names no file.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /usr/local/bin/switchboard /usr/local/bin/switchboard

ENV PATH=/usr/local/bin \
    BIND_ADDR=0.0.0.0 \
    NODE_ENV=production

# Clients; workers and operators.
EXPOSE 4000 4001

# A number, so that an orchestrator can see that it is not root. Nothing is written to disk.
USER 10001:10001

# The process is PID 1 and handles SIGTERM itself: it drains, then exits with 0.
STOPSIGNAL SIGTERM
ENTRYPOINT ["switchboard"]

# Alive, whatever Redis does; readiness is GET /readyz, for the load balancer.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["switchboard", "health"]
