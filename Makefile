# Two commands matter: `make demo` runs the whole story, `make test` passes the tests.
# Each makes its own virtual environment in .venv and installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
# As root on Debian the real peers of the tests are installed too; otherwise what needs them is skipped.
# Each is the program that is looked for, and the package that has it.
PEERS := mosquitto:mosquitto mosquitto_pub:mosquitto-clients systemd-analyze:systemd nats-server:nats-server ip:iproute2
# What a daemon loads of numpy has no docstrings (gateway/net/imports.py); where that cannot be, Python's own file is read.
COMPILE_LEAN := $(BIN)/python -c 'import compileall, re, numpy; compileall.compile_dir(numpy.__path__[0], quiet=1, optimize=2, rx=re.compile("/tests/"))' 2>/dev/null || true
PYTEST_ARGS ?=
# The tests run in so many processes at once: they wait more than they compute. Those marked `alone` have nothing beside
# them. `make test PROCESSES=0` runs all in one, for a debugger.
PROCESSES ?= 2

.PHONY: demo test install lint types contracts docs coverage nightly bench peers clean help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidegate needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; else echo "python3-venv is missing. As root: apt-get install python3-venv"; exit 2; fi; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing tidegate into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -m compileall -q gateway
	@$(COMPILE_LEAN)
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "installing the test tools into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## the whole story on this desk, in about a minute
	@$(BIN)/tidegate demo $(DEMO_ARGS)

# Where the unit, the configuration and the command go; a packager sets DESTDIR, and nothing outside of it is touched then.
DESTDIR ?=
UNIT := $(DESTDIR)/etc/systemd/system/tidegate.service
COMMAND := $(DESTDIR)/usr/local/bin/tidegate

install: ## as root: into this folder's .venv, with a systemd unit and a link on the PATH; run it again to update
	@test -n "$(DESTDIR)" || test "$$(id -u)" = 0 || { echo "make install writes to /etc and /usr/local/bin: run it as root (sudo make install)"; exit 2; }
	@$(MAKE) --no-print-directory --silent $(STAMP)
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m compileall -q gateway; $(COMPILE_LEAN); fi
	@test -n "$(DESTDIR)" || id -u tidegate >/dev/null 2>&1 || { useradd --system --user-group --no-create-home --home-dir "$(CURDIR)" --shell /usr/sbin/nologin tidegate && echo "user tidegate created"; }
	@install -d -m 755 $(DESTDIR)/etc/tidegate $(dir $(UNIT)) $(dir $(COMMAND))
	@sed 's#/opt/tidegate/#$(CURDIR)/#g' docs/tidegate.service > $(UNIT).new && chmod 644 $(UNIT).new && mv $(UNIT).new $(UNIT)
	@if [ -e $(COMMAND) ] && [ ! -L $(COMMAND) ]; then echo "$(COMMAND) is not a link of ours and stays as it is"; else ln -sfn $(CURDIR)/$(BIN)/tidegate $(COMMAND); fi
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "installed: $(COMMAND) and $(UNIT)"
	@test -e $(DESTDIR)/etc/tidegate/tidegate.toml || echo "next: tidegate init --out $(DESTDIR)/etc/tidegate/tidegate.toml"

peers:
	@missing=; for peer in $(PEERS); do program=$${peer%:*}; command -v $$program >/dev/null || test -x /usr/sbin/$$program || missing="$$missing $${peer#*:}"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing …"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null || echo "could not install$$missing: tests against it are skipped"; \
	else echo "not installed, and this is not root:$$missing; tests against it are skipped"; fi

test: $(DEV_STAMP) peers ## all tests but the nightly ones
	@$(BIN)/python -m pytest -m 'not nightly' -n $(PROCESSES) --dist worksteal -rs $(PYTEST_ARGS)

nightly: $(DEV_STAMP) peers ## thousands of kills and power cuts, and the soak
	@$(BIN)/python -m pytest -m nightly --timeout 7200 -rs $(PYTEST_ARGS)

lint: $(DEV_STAMP) ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(DEV_STAMP) ## mypy, strict
	@$(BIN)/mypy

contracts: $(DEV_STAMP) ## floors: who may import whom
	@$(BIN)/lint-imports

coverage: $(DEV_STAMP) peers ## the tests again, with coverage and its floors
	@$(BIN)/coverage erase
	@$(BIN)/python -m pytest -m 'not nightly' -n $(PROCESSES) --dist worksteal --cov=gateway --cov-branch --cov-report= $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory coverage-report

# The rooms that must not be wrong are covered to the last branch; the tenth of a per cent is for what only chance brings.
coverage-report:
	@$(BIN)/coverage report --skip-covered --fail-under=90
	@$(BIN)/coverage report --skip-covered --precision=2 --fail-under=99.9 --include='gateway/core/*,gateway/codecs/*,gateway/store/*'

docs: $(STAMP) ## rewrite the pages that are made from the code
	@$(BIN)/python -m gateway.control.manual docs

bench: $(STAMP) ## the performance suite
	@$(BIN)/tidegate bench

clean: ## remove what the targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage*
