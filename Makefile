# dmsnap. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PYTHON ?= python3
PREFIX ?= /usr/local
DESTDIR ?=
# Of `make install`: postgresql, for a catalogue on a server.
EXTRAS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.dmsnap-built

BUILD_PACKAGES := gcc libc6-dev libdevmapper-dev liburing-dev libxxhash-dev pkg-config python3-dev python3-venv
RUN_PACKAGES := e2fsprogs kmod mount util-linux xfsprogs
CHECK_PACKAGES := clang clang-tidy cppcheck libclang-rt-dev postgresql valgrind xxhash
# What the bench measures with and against; the lab's trees have their own.
BENCH_PACKAGES := coreutils diffutils fio gddrescue libnbd-bin nbdkit qemu-utils rsync time

# What the extension modules and the package's metadata are made of. Python files are used from the
# checkout as they are.
NATIVE := $(wildcard native/src/*.c native/src/*.h native/include/dmsnap/*.h) \
	dmsnap/_native/build.py dmsnap/host/dm/build.py setup.py pyproject.toml

LIBRARY := $(DESTDIR)$(PREFIX)/lib/dmsnap
RULES := $(DESTDIR)$(PREFIX)/lib/udev/rules.d
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system
DOC := $(DESTDIR)$(PREFIX)/share/doc/dmsnap
STATE := $(DESTDIR)/var/lib/dmsnap

# Of `make fuzz`: how long each harness runs, or how often; which ones.
SECONDS := 60
RUNS :=
HARNESSES :=

.PHONY: help all build deps deps-build lint lint-python lint-native test test-unit test-native test-lab test-exhaustive fuzz crash-matrix demo bench lab \
	install uninstall clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

all: build ## the same as build

build: $(STAMP) ## build into .venv: .venv/bin/dmsnap runs from the checkout (the default)

$(STAMP): $(NATIVE)
	.ci/install-packages $(BUILD_PACKAGES)
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	requires=$$($(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))'); \
		mapfile -t requires <<<"$$requires"; $(PIP) install wheel "$${requires[@]}"
	$(PIP) install --no-build-isolation --editable '.[dev]'
	touch $@

deps-build:
	.ci/install-packages $(BUILD_PACKAGES)

deps: deps-build ## install the Debian packages that building, checking and the lab need (root)
	.ci/install-packages $(RUN_PACKAGES) $(CHECK_PACKAGES)
	tests/lab/install-host-packages

# Neither of the two has work for two processors all the time.
lint: build ## ruff, mypy, gcc and clang with -Werror, gcc -fanalyzer, clang-tidy, cppcheck
	$(MAKE) -j 2 --output-sync=line lint-python lint-native

# Scenarios may be called as unit tests are: mypy looks at one directory of top-level modules at a time.
lint-python: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=tests/lab:tests/bench $(BIN)/mypy dmsnap tests/unit tests/native
	MYPYPATH=tests/unit $(BIN)/mypy tests/lab
	MYPYPATH=tests/lab $(BIN)/mypy tests/bench

lint-native:
	$(MAKE) -C native all CC=gcc
	$(MAKE) -C native all CC=clang
	$(MAKE) -C native analyze

test-unit: build ## tests that need no root and no device-mapper
	$(BIN)/pytest -q --numprocesses auto

test-native: ## tests of the C core under ASan and UBSan, and its threads under TSan
	$(MAKE) -j 3 -C native test tsan

test-lab: ## scenarios on real kernels, in virtual machines
	tests/lab/run-all $(if $(KERNEL),--kernel $(KERNEL))

test-exhaustive: build ## a million points; signals and kills at every step of everything, 200 kills in the window, in the lab (hours)
	$(BIN)/pytest -q -m exhaustive tests/unit
	tests/lab/run-all --all
	tests/lab/run-all --kernel uml12
	tests/lab/crash-matrix

crash-matrix: build ## pull the plug at every step of every operation, write docs/crash-matrix.md (an hour)
	tests/lab/install-host-packages
	tests/lab/crash-matrix

fuzz: ## attack the parsers: SECONDS=60 each, or RUNS=n; HARNESSES='era label'
	$(MAKE) -j 2 -C native fuzz
	$(PYTHON) tests/native/fuzz/run.py $(if $(RUNS),--runs $(RUNS),--seconds $(SECONDS)) $(HARNESSES)

# What the guests are made of is built in what the tests before them leave of the processors, and is
# told of where it fails. The linters get what the guests leave, and are told of at the end.
test: ## install what is missing, then every check and test
	$(MAKE) deps
	$(MAKE) build
	mkdir -p build
	nice tests/lab/prepare >build/prepare.log 2>&1 & prepare=$$!; \
		tests=0; for each in test-unit test-native "fuzz SECONDS=20"; do $(MAKE) $$each || { tests=$$?; break; }; done; \
		wait $$prepare || cat build/prepare.log; exit $$tests
	.ci/in-what-is-left $(MAKE) lint >build/lint.log 2>&1 & lint=$$!; \
		lab=0; $(MAKE) test-lab || lab=$$?; \
		wait $$lint || { cat build/lint.log; echo "lint failed"; exit 1; }; \
		echo "lint passed"; exit $$lab

demo: ## the main job, in the lab: spoil two volumes and recover them
	tests/lab/install-host-packages
	tests/lab/run --flush --timeout 1500 tests/lab/demo

# make bench SECTION="era sync" measures some of it again, QUICK=1 only proves that it runs.
# Bytecode is there as after an installation, also where Python is told to write none.
bench: build ## measure beside other tools and write docs/benchmarks.md (SECTION=, QUICK=1)
	.ci/install-packages $(BENCH_PACKAGES)
	tests/lab/install-host-packages
	$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(PIP) install --no-build-isolation --editable '.[bench]'
	$(BIN)/python -m compileall -q dmsnap
	$(BIN)/python tests/bench/run $(if $(QUICK),--quick) $(SECTION)

lab: ## a shell in the lab
	tests/lab/install-host-packages
	tests/lab/run --shell

# A directory of its own holds dmsnap and the Python packages it needs: Debian's Python keeps others
# out of its own (PEP 668), and nothing else on the server changes with them. The program finds the
# directory beside itself, so that it runs from a DESTDIR, too.
install: build ## install below PREFIX (/usr/local), staged in DESTDIR; EXTRAS=postgresql; root without DESTDIR
	rm -rf build/wheel build/lib build/bdist.*
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	[ ! -e "$(LIBRARY)" ] || [ -e "$(LIBRARY)/dmsnap/version.py" ]
	rm -rf "$(LIBRARY)"
	wheel=$$(echo build/wheel/dmsnap-*.whl); \
		$(PIP) install --no-compile --target "$(LIBRARY)" "$$wheel$(if $(EXTRAS),[$(EXTRAS)])"
	rm -rf "$(LIBRARY)/bin"
	$(BIN)/python -m compileall -q -s "$(DESTDIR)" "$(LIBRARY)" || true
	install -d "$(DESTDIR)$(PREFIX)/bin"
	interpreter=$$($(BIN)/python -c 'import os, sys; print(os.path.realpath(sys.executable))'); \
		for program in dmsnap:cli dmsnapd:daemon; do \
			sed "s|@PYTHON@|$$interpreter|; s|@LAYER@|$${program#*:}|" dmsnap/launcher.in >"$(DESTDIR)$(PREFIX)/bin/$${program%:*}"; \
		done
	chmod 755 "$(DESTDIR)$(PREFIX)/bin/dmsnap" "$(DESTDIR)$(PREFIX)/bin/dmsnapd"
	install -D -m 644 -t "$(RULES)" udev-rules/*.rules
	install -d "$(UNITS)"
	for unit in $(wildcard systemd/*.service systemd/*.timer systemd/*.target); do \
		sed "s|/usr/local/|$(PREFIX)/|g" "$$unit" >"$(UNITS)/$${unit##*/}"; \
	done
	chmod 644 "$(UNITS)"/dmsnap*
	for page in README.md CHANGELOG.md LICENSE docs/*.md; do \
		[ ! -e "$$page" ] || install -D -m 644 -t "$(DOC)" "$$page"; \
	done
	install -d -m 700 "$(STATE)" "$(STATE)/store"
	[ -n "$(DESTDIR)" ] || ! command -v udevadm >/dev/null || udevadm control --reload || true
	[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
	@echo "installed; dmsnap protect enables what a volume needs at boot, dmsnap doctor says whether it will be there"

uninstall: ## remove what install put there; volumes, catalogue and stores stay
	[ ! -e "$(LIBRARY)/dmsnap/version.py" ] || rm -rf "$(LIBRARY)"
	rm -f "$(DESTDIR)$(PREFIX)/bin/dmsnap" "$(DESTDIR)$(PREFIX)/bin/dmsnapd"
	rm -f $(patsubst udev-rules/%,"$(RULES)/%",$(wildcard udev-rules/*.rules))
	rm -f $(patsubst systemd/%,"$(UNITS)/%",$(wildcard systemd/*.service systemd/*.timer systemd/*.target))
	rm -rf "$(DOC)"

clean: ## remove everything that was built, .venv too
	rm -rf build dist *.egg-info $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f dmsnap/_native/*.so dmsnap/_native/_core.c dmsnap/_native/dmsnap-watchdog
	rm -f dmsnap/host/dm/*.so dmsnap/host/dm/_libdm.c dmsnap/host/dm/*.o
	find dmsnap tests -name __pycache__ -type d -prune -exec rm -rf {} +
