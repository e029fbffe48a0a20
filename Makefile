# What can be done with this checkout: `make help`.
#
# Cargo's output goes to build/, by name in every call: target/ is source here.

.DEFAULT_GOAL := help
SHELL := /bin/bash

CARGO ?= cargo
OUT := --target-dir build
PROGRAMS := blat blat-agent blat-generator blat-web
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
LAB ?= 1
LAB_THREADS ?= 4
# Part of a test's name, for `make lab`, `databases`, `buckets`, `browser`: TEST=kills::
TEST ?=

# Cargo keeps this profile in one folder with `release`, and shares what both have in common (see
# Cargo.toml). Clippy's driver is rustc, with lints: what tests are made of is looked at while it is
# compiled. So dependencies are compiled once, and not once each for programs, tests and lints.
TESTS := RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings $(CARGO) test --profile bench --locked $(OUT)

# What a Debian with git, make and Rust lacks: to build, to boot machines, to run databases and buckets.
DEBIAN_PACKAGES := gcc libc6-dev unixodbc-dev dpkg-dev lintian rpm rpmlint \
	iproute2 man-db mmdebstrap openssl openssh-client openssh-server rsync systemd systemd-container util-linux \
	libsqliteodbc mariadb-client-core mariadb-server-core odbc-mariadb odbc-postgresql postgresql \
	python3 python3-venv unzip zip

# What the tests of the web pages need besides, with node and npm: only `make browser` installs it.
BROWSER_PACKAGES := chromium fonts-dejavu-core prometheus

.PHONY: help setup build build-possible check unit browser databases buckets lab lab-possible oldest-helper test demo bench soak deb rpm install clean

help: ## says what can be made (this list)
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

setup: ## installs the Debian packages that the rest needs and that are missing
	@missing=; for package in $(DEBIAN_PACKAGES); do \
		state=$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null); \
		[ "$$state" = installed ] || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then echo "setup: everything is there"; exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "setup: missing:$$missing. Only root can install them: sudo make setup" >&2; exit 1; fi; \
	echo "setup: installing$$missing"; \
	apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

# Says what is missing before cargo compiles for minutes and the linker tells it in its own words.
build-possible:
	@mkdir -p build; echo 'int main(void) { return 0; }' | cc -x c - -lodbc -o build/linked 2>/dev/null || { \
		command -v cc >/dev/null && why="unixODBC to link with" || why="a C compiler"; \
		echo "build: $$why is missing. On Debian, \`make setup\` installs what is needed, as root;" \
			"elsewhere it is gcc and unixODBC with its development files." >&2; exit 1; }

# A test that is compiled meanwhile may put its own program in the place of the one that was just built:
# that one has debug information.
build: build-possible ## builds the host's programs and the targets', into build/dist
	@for try in 1 2 3 4 5; do \
		(set -x; $(CARGO) build --release --locked $(OUT)) || exit 1; \
		install -C -D -m 0755 -t build/dist $(addprefix build/release/, $(PROGRAMS)) || exit 1; \
		mixed=; for program in $(PROGRAMS); do \
			readelf -S --wide build/dist/$$program | grep -q debug_line && mixed="$$mixed $$program"; done; \
		[ -n "$$mixed" ] || exit 0; \
	done; echo "build/dist has programs that were made for tests:$$mixed" >&2; exit 1
	RUSTFLAGS='-C target-feature=+crt-static' \
		$(CARGO) build --profile helper --locked -p blat-target --target $(TRIPLE) $(OUT)
	install -C -D -m 0755 build/$(TRIPLE)/helper/blat-target build/dist/blat-target

check: ## looks at format and lints, and compiles the tests
	$(CARGO) fmt --all --check
	$(TESTS) --no-run --workspace
	$(TESTS) --no-run --test lab --test bench --test buckets --test databases --test measures --test web

unit: ## runs the tests that need neither root nor network
	$(TESTS) --workspace

browser: build/browser/node_modules ## tests the web pages in headless Chromium (screenshots: build/screenshots)
	$(TESTS) --test web -- --test-threads=1 $(TEST)

# What only the browser tests need: a browser and promtool from Debian, axe and a driver from npm.
build/browser/node_modules: tests/web/package.json tests/web/package-lock.json
	@missing=; for package in $(BROWSER_PACKAGES); do \
		state=$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null); \
		[ "$$state" = installed ] || missing="$$missing $$package"; \
	done; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	[ -z "$$missing" ] || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }
	mkdir -p build/browser && cp tests/web/package.json tests/web/package-lock.json build/browser/
	npm --prefix build/browser ci --no-audit --no-fund --silent
	touch $@

databases: ## runs the tests that need databases: SQLite, and a private PostgreSQL and MariaDB
	$(TESTS) --test databases -- --test-threads=$(LAB_THREADS) $(TEST)

# Servers and clients of S3 that are not Debian's.
build/s3/done: tests/buckets/requirements.txt
	python3 -m venv --clear build/s3
	build/s3/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

buckets: build/s3/done ## runs the tests that need buckets: private SeaweedFS and moto servers
	$(TESTS) --test buckets -- --test-threads=$(LAB_THREADS) $(TEST)

# A helper that was never updated, as far as its protocol goes.
oldest-helper:
	$(CARGO) build --profile bench --workspace --bin blat-target-oldest --features blat-target/oldest-protocol --locked $(OUT)
	install -C -D -m 0755 -t build/dist build/release/blat-target-oldest

lab: lab-possible build build/s3/done oldest-helper deb rpm ## boots machines and runs the tests that need them (root)
	@set -o pipefail; $(TESTS) --test lab -- --test-threads=$(LAB_THREADS) $(TEST) 2>&1 | tee build/lab.log || { \
		printf '\nWhat failed, in short (the whole of it: build/lab.log):\n'; \
		grep -A 5 'panicked at' build/lab.log; exit 1; }

lab-possible:
	@for program in systemd-nspawn mmdebstrap ip nsenter ssh-keygen; do \
		command -v $$program >/dev/null || why="$$program is missing"; done; \
	unshare --mount --net true 2>/dev/null || why="making namespaces is not allowed here"; \
	[ "$$(id -u)" = 0 ] || why="this is not root"; \
	[ -z "$$why" ] || { \
		echo "The lab cannot boot machines: $$why. It takes root, namespaces, and \`make setup\`;" \
			"\`make test LAB=0\` runs everything but the lab." >&2; exit 1; }

# What is shipped is compiled beside what tests it, so that no core is idle while the other compiles one
# large crate.
.PHONY: shipped
shipped: ; $(MAKE) -j1 build deb rpm oldest-helper

ifeq ($(LAB),0)
test: setup ## all of the above; LAB=0 leaves the machines out
	$(MAKE) -j1 check unit databases buckets browser
	@echo
	@echo "Passed: check, unit, databases, buckets, browser. THE LAB DID NOT RUN (LAB=0): nothing was tried on real machines."
else
test: setup lab-possible
	$(MAKE) -j2 --output-sync=line check shipped
	$(MAKE) -j1 unit databases buckets browser
	$(MAKE) -j1 lab
	@echo
	@echo "Passed: check, unit, databases, buckets, browser, lab."
endif

demo: setup ## shows blat at work on machines of its own (KEEP=1: leaves them up until Enter)
	$(MAKE) build
	@if why=$$($(MAKE) --no-print-directory lab-possible 2>&1); then \
		KEEP='$(KEEP)' $(CARGO) run --profile bench -q --example demo --locked $(OUT); \
	else \
		echo "$$why"; $(CARGO) run --profile bench -q --example demo --locked $(OUT) -- --loopback; fi

# What draws the plots of `make bench`.
build/plots/done: tests/measures/requirements.txt
	python3 -m venv --clear build/plots
	build/plots/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

bench: lab-possible build build/s3/done build/plots/done ## measures, on the lab's machines (build/bench: a table and plots)
	rm -f build/bench/*
	@failed=; \
	$(TESTS) --test bench || failed="$$failed bench"; \
	$(CARGO) test --release --test measures --locked $(OUT) -- --nocapture --test-threads=1 || failed="$$failed measures"; \
	build/plots/bin/python tests/measures/plots.py build/bench || failed="$$failed plots"; \
	[ -z "$$failed" ] || { echo "bench: these parts failed, as told above:$$failed" >&2; exit 1; }

soak: lab-possible build build/s3/done oldest-helper ## runs all tests with many times the rounds (BLAT_SOAK=1)
	BLAT_SOAK=1 $(TESTS) --workspace
	BLAT_SOAK=1 $(TESTS) --test databases -- --test-threads=$(LAB_THREADS)
	BLAT_SOAK=1 $(TESTS) --test buckets -- --test-threads=$(LAB_THREADS)
	BLAT_SOAK=1 $(TESTS) --test lab -- --test-threads=$(LAB_THREADS)

# What goes into packages. With the folders, so that a file that is gone counts, too.
PACKAGED := $(addprefix build/dist/, $(PROGRAMS) blat-target) Makefile Cargo.toml README.md $(wildcard LICENSE*) \
	$(shell find config doc packaging target/units units)

# Another version is somebody's own business; the usual one is packed when there is something new.
deb: build ## builds Debian packages into build/packages (VERSION=)
	$(if $(VERSION),packaging/deb/build $(VERSION),@$(MAKE) --no-print-directory build/packages/deb.done)

rpm: build ## builds RPM packages into build/packages (VERSION=)
	$(if $(VERSION),packaging/rpm/build $(VERSION),@$(MAKE) --no-print-directory build/packages/rpm.done)

build/packages/%.done: $(PACKAGED)
	packaging/$*/build
	touch $@

# What a person took away is built again.
$(foreach kind,deb rpm,$(if $(wildcard build/packages/*.$(kind)),,$(shell rm -f build/packages/$(kind).done)))

install: ## puts the built programs and units in place (DESTDIR=, PREFIX=/usr)

clean: ## removes build/, and nothing else
	@chmod -R u+w build/lab/archive-* 2>/dev/null || true
	rm -rf build

-include packaging/install.mk
