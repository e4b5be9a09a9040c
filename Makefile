# Everything that a developer runs, by name. `make` alone lists it.

# RACE=1 switches the race detector on (CI does); it needs a C compiler.
RACE ?=
# More flags for `go test`, as in: make test TESTFLAGS='-run Refresh -v'
TESTFLAGS ?=
# The packages that test and bench look at.
PACKAGES ?= ./...
# Which benchmarks run, and how often each.
BENCH ?= .
BENCHCOUNT ?= 1
# Where fuzz targets are looked for, and how long each runs.
FUZZ ?= .
FUZZTIME ?= 10s

# Runs a command with real PostgreSQL and MongoDB servers at hand, and removes
# them afterwards: test/engines/with.
WITH = go run ./test/engines/with
LINT = go tool -modfile=tools/go.mod golangci-lint

.DEFAULT_GOAL := help
.PHONY: help run test test-verifiers bench benchmarks load profile soak kill drill drill-naive alerts simulate fuzz lint fmt hooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## both services, on embedded databases
	go run .

test: ## all tests, on real databases (RACE=1, PACKAGES=./keys/..., TESTFLAGS=-v)
ifneq ($(RACE),)
	@$(if $(shell command -v "$$(go env CC)"),,echo "RACE=1 needs a C compiler: install gcc, or leave RACE out" >&2; exit 1)
endif
	$(WITH) -- go test -timeout 20m $(if $(RACE),-race) $(TESTFLAGS) $(PACKAGES)

test-verifiers: ## stock verifiers in five languages, stock OAuth clients in three, verify-proxy behind nginx and Caddy, PostgREST's client
	$(WITH) -only mongodb -- go test -tags verifiers -timeout 20m -count=1 -v $(TESTFLAGS) ./test/thirdparty ./test/postgrest

# What test/bench has promises about, and what a run of `make bench` measures.
PROMISED = ^Benchmark(Verify|VerifyCached|Middleware|ParseKeySet|Sign|Tick|JWKS|RevocationList|Login|Grants|Load|Floor|Growth)$$
BENCHTIME ?= 0.5s
BENCHFLAGS ?=

bench: ## what was promised about speed, measured: a table and bench.json (BENCH=JWKS BENCHCOUNT=5)
	$(WITH) -durable -- go test -json -run '^$$' -bench '$(if $(filter .,$(BENCH)),$(PROMISED),$(BENCH))' -benchmem -benchtime $(BENCHTIME) \
		-count $(BENCHCOUNT) -timeout 60m ./pkg/verify ./keys ./authserver ./resourceserver | go run ./test/bench $(BENCHFLAGS)

benchmarks: ## all benchmarks, as they print themselves (BENCH=Size PACKAGES=./resourceserver)
	$(WITH) -durable -- go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCHCOUNT) -timeout 60m $(PACKAGES)

# More flags for the load, as in: make load LOADFLAGS='-seconds 2 -only refresh,get'
LOADFLAGS ?=
# What is profiled: an operation of the load. How long the soak takes.
NAME ?= refresh
SOAK ?= 10m

load: ## real processes under load against the least that such a service can do: a table, load/load.json, plots (≤ 10 min)
	$(WITH) -durable -- go run ./test/load $(LOADFLAGS)

profile: ## CPU, heap, mutex and block profiles of a service under load, in load/ (NAME=login)
	$(WITH) -durable -- go run ./test/load -only '$(NAME)' -profile load $(LOADFLAGS)

soak: ## all operations at once and a rotation every minute: does anything grow? (SOAK=10m)
	$(WITH) -durable -- go run ./test/load -soak $(SOAK) $(LOADFLAGS)

# More flags for the drill, as in: make drill DRILLFLAGS='-length 10m -v'
DRILLFLAGS ?=

drill: ## rotate keys under real verifiers for 60 s, and count what breaks (DRILLFLAGS=-real-time: 40 min)
	$(WITH) -only postgres -from given,binaries,packages -- go run ./test/drill $(DRILLFLAGS)

drill-naive: ## the same with a rotation that must break some: the drill can see it
	$(WITH) -only postgres -from given,binaries,packages -- go run ./test/drill -naive $(DRILLFLAGS)

alerts: ## evaluate docs/prometheus-rules.yaml with Prometheus' own code
	cd test/alerts && go test -count=1 -timeout 10m $(TESTFLAGS) ./...

simulate: ## 100,000 verifiers through rotations, revocations and an outage; draws the plots of docs/scale.md
	go run ./test/simulate -plots docs/scale

fuzz: ## each fuzz target for a while (FUZZ=./pkg/verify FUZZTIME=10s)
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' $(FUZZ) | sort | \
	{ while IFS=: read -r file func; do \
		found=1; echo "$${file%/*}: $${func#func }"; \
		go test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) "./$${file%/*}" || failed=1; \
	done; test -n "$$found" -a -z "$$failed"; }

lint: ## golangci-lint (who may import whom, gosec, gofumpt, …), go vet, tidy modules
	$(LINT) run ./...
	go vet -tags verifiers ./...
	go mod tidy -diff
	cd tools && go mod tidy -diff
	cd docs/verify/go && go mod tidy -diff && go vet ./...
	cd test/drill/victims/golang && go vet . && go mod tidy -diff
	cd test/alerts && go vet ./... && go mod tidy -diff

fmt: ## gofumpt over all of it
	$(LINT) fmt ./...

hooks: ## check format, vet and quick tests before each commit (undo: git config --unset core.hooksPath)
	git config core.hooksPath .githooks

clean: ## what builds and benchmarks leave; the data folder stays
	rm -rf bin urbandata bench.json load *.test *.prof *.out
