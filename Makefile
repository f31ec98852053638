# Every task of this repository. `make` alone lists them.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash

# What building, testing and the demo need of Debian, beside Rust (rustup) and Go.
PACKAGES := build-essential ca-certificates curl libssl-dev openssl pkg-config util-linux
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

# `make test`, in this order. Each is a target of its own.
STAGES := deps servers format lint build unit fuzz-short simulate demo integration mutations

.PHONY: help
help: ## List the tasks
	@echo 'make TASK, where TASK is one of:'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'
	@echo
	@echo 'make demo KEEP=1 leaves the demo running.'
	@echo 'TRIGGERD_TEST_SKIP=mysql,mariadb,mosquitto,minio (any of them) leaves their tests out of `make test`.'

.PHONY: demo
demo: deps ## Show the whole story on a real MinIO; needs no root
	@echo 'building triggerd (6 minutes on 2 cores the first time, then seconds)'
	cargo build --locked --bins
	@tests/servers/install minio --path-ok || echo 'No MinIO: the demo replays recorded notifications instead.'
	@KEEP=$(KEEP) tests/demo/run

.PHONY: test
test: ## Install what is missing and run every check and test
	@times=; failed=; \
	for stage in $(STAGES); do \
		printf '\n== %s\n' "$$stage"; began=$$SECONDS; \
		$(MAKE) --no-print-directory "$$stage" || failed=$$stage; \
		times+=$$(printf '  %-12s %4d s' "$$stage" $$((SECONDS - began)))$$'\n'; \
		[ -z "$$failed" ] || break; \
	done; \
	printf '\n== time per stage\n%s  %-12s %4d s\n' "$$times" total "$$SECONDS"; \
	if [ -n "$$failed" ]; then echo "FAILED at: make $$failed"; exit 1; fi; \
	echo 'all passed'

.PHONY: quick
quick: format lint unit ## Run what needs no server: format, lints, unit tests

.PHONY: format
format: ## Check the format
	cargo fmt --check

.PHONY: lint
lint: ## Run clippy; a warning is an error
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: build
build: ## Build everything, the tests too
	cargo test --locked --no-run

.PHONY: unit
unit: ## Run the unit tests
	cargo test --locked --lib --bins

SEEDS ?= 10000
PROFILE ?= dev

.PHONY: simulate
simulate: ## Run the core under simulated crashes and faults, 10,000 seeds or SEEDS=n (PROFILE=release for many), or replay SEED=x
	SEEDS=$(SEEDS) SEED=$(SEED) cargo test --quiet --locked --profile $(PROFILE) --test simulation

.PHONY: mutations
mutations: ## Put bugs into a copy of the core, one by one, and have the simulation find each (2 minutes)
	tests/simulation/mutations/run

.PHONY: fuzz-short
fuzz-short: ## Run the fuzz targets, 250,000 inputs in all
	cargo test --locked --test fuzz -- --nocapture

.PHONY: fuzz
fuzz: ## Run the fuzz targets with 100,000,000 inputs in all, optimised
	TRIGGERD_FUZZ=500 cargo test --locked --profile fuzz --test fuzz -- --nocapture

.PHONY: integration
integration: ## Run the tests on real servers (`make servers` first)
	cargo test --locked --test it

.PHONY: deployment-test
deployment-test: ## Type docs/deployment.md into a booted Debian 12 and try it there (needs root; not part of `make test`)
	@command -v debootstrap systemd-nspawn >/dev/null || $(SUDO) apt-get -q install --yes --no-install-recommends debootstrap systemd-container
	@tests/servers/install minio
	cargo build --locked --release --bins
	$(SUDO) env PATH="$$PATH" HOME="$$HOME" tests/deployment/run

.PHONY: bench
bench: ## Measure the way of an event against a bare call, and the queue (`make servers` first)
	cargo bench --locked --bench pipeline
	cargo bench --locked --bench queue

.PHONY: torture
torture: PROFILE = release
torture: ## Break every part under load, 100 kills among it, and print what came of it (half an hour, and the build)
	TRIGGERD_TORTURE=full cargo test --locked --profile $(PROFILE) --test it torture -- --test-threads 1

.PHONY: deps
deps: ## Install the Debian packages that building needs (root or sudo)
	@command -v cargo >/dev/null || { echo 'Rust is missing; remedy: install rustup (it reads rust-toolchain.toml)' >&2; exit 1; }
	@if ! command -v dpkg-query >/dev/null; then \
		echo 'This is no Debian; needed are what its packages hold: $(PACKAGES)'; \
	else \
		missing=$$(for package in $(PACKAGES); do \
			dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q '^install ok installed' || echo $$package; \
		done); \
		if [ -z "$$missing" ]; then echo 'all there: $(PACKAGES)'; \
		elif [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; then \
			echo "this needs root and there is no sudo here; as root: apt-get install "$$missing >&2; exit 1; \
		else \
			echo installing $$missing; \
			$(SUDO) apt-get -q update >/dev/null && \
			$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends $$missing </dev/null >/dev/null; \
		fi; \
	fi
	cargo --version

.PHONY: servers
servers: ## Get the servers of the tests: MinIO, Mosquitto, MySQL, MariaDB (about 5 minutes, once)
	@tests/servers/install all
