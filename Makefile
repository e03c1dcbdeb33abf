# make build    bin/homing
# make run      build, and start the server
# make test     all tests; with RACE=1 under the race detector (needs a C compiler)
# make hollow   tests about messages against a core that delivers none: they must fail
# make interop  other people's RocketMQ SDKs against the server; installs them first
# make lint     all checks
# make fuzz     each fuzz target for FUZZTIME (10s), then the live server for LIVETIME (5m)
# make torture  kill -9 at random moments, each test for TORTURE (10m): also with a
#               small disk limit, with few descriptors, with takeovers
# make bench    Go benchmarks
# make docs     docs/compat.md, from internal/compat and the tags in comments
# make proto    internal/rocketmqpb/*.pb.go, from rocketmq.proto; the tools are built first

export CGO_ENABLED ?= 0

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 10s
TORTURE  ?= 10m

GOLANGCI_VERSION = v2.15.0
# The version is part of the name: a new one is installed, an old one not used.
GOLANGCI = .bin/golangci-lint-$(GOLANGCI_VERSION)

.PHONY: build run test hollow interop lint fuzz torture bench docs proto

build:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/homing ./cmd/homing

run: build
	bin/homing serve

test:
	-test/clients/install.sh
	$(if $(RACE),CGO_ENABLED=1 HOMING_TEST_RACE=1) go test -timeout 20m $(if $(RACE),-race) ./...

hollow:
	go run ./test/hollow

interop:
	HOMING_INTEROP=1 go test -count 1 -v -timeout 20m -run '^TestInteropSDK' ./test

lint: $(GOLANGCI)
	@files=$$(gofmt -l cmd internal test); test -z "$$files" || { echo "not formatted, run gofmt -w on:"; echo "$$files"; exit 1; }
	go vet ./...
	$(GOLANGCI) run ./...
	go mod tidy -diff

$(GOLANGCI):
	GOBIN=$(CURDIR)/.bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv .bin/golangci-lint $@

fuzz:
	@for package in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
	    echo "$$package $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$package || exit 1; \
	  done; \
	done
	HOMING_FUZZ=$(or $(LIVETIME),5m) go test -count 1 -v -timeout 0 -run '^TestFuzzLive$$' ./test

torture:
	HOMING_TORTURE=$(TORTURE) go test -count 1 -v -timeout 0 -run '^TestKill' ./test

bench:
	go test -run '^$$' -bench . -benchmem ./...

docs:
	go run ./internal/compat/gen

BUF_VERSION                = v1.75.0
PROTOC_GEN_GO_VERSION      = v1.36.12
PROTOC_GEN_GO_GRPC_VERSION = v1.6.2
BUF                = .bin/buf-$(BUF_VERSION)
PROTOC_GEN_GO      = .bin/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)
PROTOC_GEN_GO_GRPC = .bin/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)

proto: $(BUF) $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC)
	$(BUF) generate internal --path internal/rocketmqpb --output internal --template \
	  '{version: v2, plugins: [{local: $(PROTOC_GEN_GO), out: ., opt: paths=source_relative}, {local: $(PROTOC_GEN_GO_GRPC), out: ., opt: paths=source_relative}]}'

$(BUF):
	GOBIN=$(CURDIR)/.bin go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	mv .bin/buf $@

$(PROTOC_GEN_GO):
	GOBIN=$(CURDIR)/.bin go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	mv .bin/protoc-gen-go $@

$(PROTOC_GEN_GO_GRPC):
	GOBIN=$(CURDIR)/.bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	mv .bin/protoc-gen-go-grpc $@
