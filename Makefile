# Agentkernel. `make run` shows it at work, `make test` tests it; both install what they need on Debian.

VERSION := $(shell git describe --tags --always --dirty=-dirty-$$(date +%s) 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/agentkernel/agentkernel/internal/app.Version=$(VERSION)
BIN     := bin/agentkernel
GO      := go
SOURCE  := /usr/src/linux-source-6.1.tar.xz

# What is needed to build the kernel and the base image, and to run microVMs.
PACKAGES := build-essential flex bison bc libelf-dev xz-utils busybox-static e2fsprogs linux-source-6.1 qemu-system-x86
# What tests compare with, and skip without.
PACKAGES_TEST := erofs-utils git squashfs-tools umoci
PACKAGES_RECIPES := mmdebstrap squashfs-tools
PACKAGES_ARM64 := gcc-aarch64-linux-gnu qemu-system-arm

.PHONY: build run test test-api test-recipes test-arm64 test-firecracker lint bench bench-image stress generate setup ready

build: ## bin/agentkernel, with the guest agents of both architectures in it
	@scripts/build-guest.sh
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/agentkernel

setup: ## what is missing of the distribution's packages
	@scripts/setup.sh $(PACKAGES)

ready: setup build ## the kernel and the base image as well
	$(BIN) kernel build --source $(SOURCE)
	$(BIN) image build base

run: ready ## a real job in a real microVM
	@scripts/demo.sh $(BIN)

test: ready ## everything, with real microVMs
	@scripts/setup.sh $(PACKAGES_TEST)
	@scripts/test.sh

test-api: ready ## the API against api/openapi.yaml, with requests that schemathesis makes up
	@scripts/test-api.sh

test-recipes: ready ## build every image recipe, and run what it is for
	@scripts/setup.sh $(PACKAGES_RECIPES)
	$(GO) test -count=1 -v -timeout 60m -run TestRecipes ./test/vm -recipes

test-arm64: setup build ## cross-build the arm64 kernel and boot it under emulation
	@scripts/setup.sh $(PACKAGES_ARM64)
	$(BIN) kernel build --arch aarch64 --source $(SOURCE)
	$(BIN) image build base --arch aarch64
	$(GO) test -count=1 -v -run 'TestSmoke' ./test/vm -arch aarch64
	$(GO) test -count=1 -v -run 'TestImageOfAnotherArchitecture' ./test/vm

test-firecracker: ready ## the microVM suites on FIRECRACKER=/path/to/firecracker [JAILER=/path/to/jailer], in an emulated machine where KVM is not good
	$(GO) test -count=1 -v -timeout 4h ./test/nested -firecracker '$(abspath $(FIRECRACKER))' -jailer '$(abspath $(JAILER))'

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

bench-image: ## each step of a container image of 500 MB, beside docker where it runs
	$(GO) test -run XXX -bench Pull500MB -benchtime 1x -v ./internal/image

bench: ready ## what everything costs on this host
	$(BIN) bench all

stress: ready ## 100 microVMs booted, used and shut down; fails when anything goes wrong or is left over
	$(BIN) stress --count 100

generate: ## code from api/
	$(GO) run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config api/v1/gen.yaml api/openapi.yaml
	@scripts/generate-guest.sh
