# Every target stands alone: none needs another to have been run before it.

GO       ?= go
FUZZTIME ?= 30s
DATA     ?= ./data

# Pinned here and not in go.mod: tools of ours are no dependencies of those who
# import a package of this module.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB      := https://vuln.go.dev/index/db.json

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## build, and start with five demo devices on https://localhost:8443, state in ./data
	./bin/gatehouse serve --data-dir $(DATA) --demo 5

build: ## bin/gatehouse: static, version stamped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatehouse ./cmd/gatehouse

# The suite runs again on PostgreSQL where that is installed; CI must have it. One server
# serves both runs: were there two, Go would run again what depends on no engine. Nothing
# is vetted here, as lint vets everything.
POSTGRES := $(or $(CI),$(wildcard /usr/lib/postgresql/*/bin/initdb),$(shell command -v initdb 2>/dev/null))

# How long one package may take on a busy machine: the whole server's has many stories.
PATIENCE := 25m

test: ## the whole test suite with the race detector, on each database engine
	@./.ci/missing
ifeq ($(POSTGRES),)
	$(GO) test -race -vet=off -timeout $(PATIENCE) ./...
	$(GO) test -vet=off -run '^TestAThousandDevices$$' ./cmd/gatehouse
else
	$(GO) run ./storage/storagetest/postgrestest/run -- sh -c \
		'$(GO) test -race -vet=off -timeout $(PATIENCE) ./... && GATEHOUSE_TEST_STORE=postgres $(GO) test -race -vet=off -timeout $(PATIENCE) ./...'
	$(GO) test -vet=off -run '^TestAThousandDevices$$' ./cmd/gatehouse
endif

lint: ## gofmt, vet, staticcheck, govulncheck, module tidiness, import directions
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; } >&2
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff
	$(GO) test -count=1 -run '^TestImports' ./storage/guard
	@if curl -fsS --max-time 5 -o /dev/null $(VULNDB) 2>/dev/null; \
	then echo $(GO) run $(GOVULNCHECK) ./...; $(GO) run $(GOVULNCHECK) ./...; \
	else echo "lint: skipped govulncheck: its database is not reachable"; fi

fuzz: ## every fuzz target for FUZZTIME (30s) each
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "fuzz: $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bench: ## the benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

pictures: ## the pictures of docs/images again: of the portal, and of the administrators' pages
	GATEHOUSE_PICTURES=$(CURDIR)/docs/images/portal GATEHOUSE_ADMIN_PICTURES=$(CURDIR)/docs/images/admin \
		$(GO) test -count=1 -timeout 30m -run '^Test(Admin)?Pictures$$' ./cmd/gatehouse

cover: ## coverage of the test suite: coverage.html
	$(GO) test -coverpkg ./... -coverprofile coverage.out ./...
	$(GO) tool cover -html coverage.out -o coverage.html
	@$(GO) tool cover -func coverage.out | tail -1

.PHONY: help run build test lint fuzz bench pictures cover
