# Every command sets up what it needs in .venv. PYTHON=python3.12 make test takes another interpreter
# (make clean first).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
BENCH := build/benchmarks
BENCH_OPTIONS := --verbose --benchmark-storage=$(BENCH) --benchmark-quiet \
	--benchmark-min-time=0.0001 --benchmark-max-time=0.75 --benchmark-min-rounds=10
SOURCES := pyproject.toml setup.py README.md \
	$(shell find src -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*')

# What test-all looks for, with the oldest NumPy of which there are wheels for it.
PYTHONS := 3.11:2.0.0 3.12:2.0.0 3.13:2.1.0 3.14:2.3.2

.PHONY: demo test test-all test-numpys fuzz fuzz-calls fuzz-graphs fuzz-functions leaks sanitize \
	memcheck addresses races bench side-by-side threads asv compilers emulate wheel docs lint \
	coverage covered clean

demo: $(VENV)/installed $(VENV)/group-demo
	$(BIN)/python examples/flat_field.py

test: $(VENV)/installed $(VENV)/group-test
	$(BIN)/python -m pytest -n auto

# Interpreters are on the PATH or pyenv's; each gets an environment of its own in build. All are
# run, whichever fail, and listed in the end.
test-all:
	@mkdir -p build; echo 'Tests were run on:' > build/tested; \
	for pair in $(PYTHONS); do \
		version=$${pair%:*}; found=; \
		for python in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version*/bin/python; do \
			if [ -z "$$found" ] && "$$python" -c '' 2> /dev/null; then found=$$python; fi; \
		done; \
		if [ -z "$$found" ]; then echo "Python $$version: not found" >> build/tested; continue; fi; \
		$(MAKE) PYTHON="$$found" VENV=build/python-$$version OLDEST=$${pair#*:} test-numpys \
			|| echo "Python $$version: FAILED to set up" >> build/tested; \
	done; \
	cat build/tested; ! grep -q FAILED build/tested

# Built with the newest NumPy, as wheels are, and run with that and with the oldest.
test-numpys: $(BIN)/pip-upgraded
	for numpy in --upgrade\ numpy numpy==$(OLDEST); do \
		$(PIP) install --only-binary=numpy $$numpy || exit 1; \
		if $(MAKE) test; then result=passed; else result=FAILED; fi; \
		$(BIN)/python -c 'import platform, sys, numpy; print("Python", platform.python_version(), \
			"with NumPy", numpy.__version__ + ":", sys.argv[1])' $$result >> build/tested; \
	done

# When a pass is compiled depends on the time: never here, or, with "always", before its first call.
fuzz-calls fuzz-graphs fuzz-functions leaks memcheck races: export FASTLAYERS_COMPILE ?= 0

# More threads than cores would spin through each other's turns.
fuzz-calls fuzz-graphs fuzz-functions: export OMP_WAIT_POLICY = passive
fuzz: fuzz-calls fuzz-graphs fuzz-functions

# All tests that draw their examples, 25,000 each.
fuzz-calls: $(VENV)/installed $(VENV)/group-test
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=fuzz --hypothesis-show-statistics

fuzz-graphs: $(VENV)/installed $(VENV)/group-test
	PYTHONPATH=tests/support $(BIN)/python tests/test_graph_random.py

fuzz-functions: $(VENV)/installed $(VENV)/group-test
	PYTHONPATH=tests/support $(BIN)/python tests/test_programs_random.py

leaks: $(VENV)/installed $(VENV)/group-test
	$(BIN)/python tests/support/leaks.py

# Memory and threads under the tools that watch them. Each sanitizer wants a build of its own: GCC's
# for memory; for threads Clang's, whose OpenMP has a tool, Archer, that tells the sanitizer how threads
# wait for each other. (The library of Clang 14's thread sanitizer crashes as it is loaded.)
CLANG ?= clang-16
sanitize: memcheck
	CC=gcc FASTLAYERS_SANITIZE=address,undefined $(MAKE) VENV=build/venv-address addresses
	CC=$(CLANG) FASTLAYERS_SANITIZE=thread $(MAKE) VENV=build/venv-thread races

# The CPU that valgrind simulates has no AVX-512 (kernels of x86-64-v2 and v3 are run), and notices
# no overflow. Python's own allocator would hide from it where blocks end.
memcheck: $(VENV)/installed $(VENV)/group-test
	@command -v valgrind || { echo "make sanitize needs valgrind: apt-get install valgrind" >&2; exit 1; }
	PYTHONMALLOC=malloc OMP_WAIT_POLICY=passive valgrind --quiet --error-exitcode=1 \
		--suppressions=tests/support/valgrind.supp $(BIN)/python tests/support/calls.py

# Python itself is not built with the sanitizers, so their libraries are loaded before all others.
runtime = $(foreach library,$(1),$(shell gcc -print-file-name=lib$(library).so))

# Python leaves memory behind as it ends, so leaks are not looked for: `make leaks` does. Freed memory
# is kept back for a while, to find late accesses: the tests left out measure memory. One forks while
# threads allocate: the lock of GCC 12's sanitizer may be taken then, and its child waits for ever.
addresses: $(VENV)/installed $(VENV)/group-test
	LD_PRELOAD="$(call runtime,asan ubsan stdc++)" PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		UBSAN_OPTIONS=print_stacktrace=1 \
		$(BIN)/python -m pytest -k "not memory_stays_flat and not memory_given_back_is_gone \
		and not memory_of_many_sizes and not leave_nothing_behind \
		and not any_allocation_of and not zeros_in_new_memory \
		and not idle_memory_is_given_back and not without_a_sweeper \
		and not fork_while_threads_are_at_work"

# Nor is OpenMP itself built with it.
ARCHER = $(wildcard $(shell $(CLANG) -print-resource-dir)/../../libarcher.so)
races: $(VENV)/installed $(VENV)/group-test
	@test -n "$(ARCHER)" || { echo "make races needs Clang with its sanitizers and OpenMP:" \
		"apt-get install clang-16 libclang-rt-16-dev libomp-16-dev" >&2; exit 1; }
	LD_PRELOAD=$(shell $(CLANG) -print-file-name=libclang_rt.tsan-$(shell uname -m).so) \
		OMP_TOOL_LIBRARIES=$(ARCHER) TSAN_OPTIONS="exitcode=66 ignore_noninstrumented_modules=1" \
		$(BIN)/python tests/support/races.py

# Each implementation in a process of its own: to load the one that is named, and no other, is up to
# the import. pytest-benchmark sorts the two by name; here it would load the tests' conftest.py, which
# wants what only the tests need.
bench: $(VENV)/installed $(VENV)/group-bench
	mkdir -p $(BENCH)
	FASTLAYERS_IMPLEMENTATION=reference $(BIN)/python -m pytest benchmarks $(BENCH_OPTIONS) \
		--benchmark-json=$(BENCH)/1-reference.json
	FASTLAYERS_IMPLEMENTATION=native $(BIN)/python -m pytest benchmarks $(BENCH_OPTIONS) \
		--benchmark-json=$(BENCH)/2-native.json
	$(BIN)/python -m fastlayers
	cd $(BENCH) && $(abspath $(BIN))/pytest-benchmark --storage=. compare --between=median \
		--time-unit=us 1-reference.json 2-native.json

side-by-side: $(VENV)/installed $(VENV)/group-peers
	$(BIN)/python benchmarks/side_by_side.py

threads: $(VENV)/installed
	$(BIN)/python benchmarks/threads.py

# asv builds what it times, of what is committed; its suite and settings are those of the work tree.
# It asks what machine this is unless it has been told.
asv: $(VENV)/group-asv
	$(BIN)/asv machine --yes
	$(BIN)/asv run

# GCC, Clang with LLVM's OpenMP, and MinGW-w64 as a cross compiler; it says which packages it misses.
compilers: $(VENV)/group-build
	CLANG=$(CLANG) $(BIN)/python tools/compilers.py

# Other processors, under QEMU, on Debian and as root: make emulate ARCHITECTURES=arm64
ARCHITECTURES := arm64 s390x
emulate: $(VENV)/group-build
	$(BIN)/python tools/emulate.py $(ARCHITECTURES)

# The same sources give the same bytes: all files get the time of the last commit, or of 1980, with
# which zip archives begin, where there are no commits.
COMMIT_TIME = $(shell git log -1 --format=%ct 2> /dev/null || echo 315532800)

wheel: $(VENV)/group-wheel
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$(COMMIT_TIME)} PATH="$(abspath $(BIN)):$$PATH" \
		$(BIN)/python tools/wheels.py

docs: $(VENV)/installed $(VENV)/group-docs
	$(BIN)/sphinx-build -W --keep-going -q docs build/docs

lint: $(VENV)/installed $(VENV)/group-lint $(VENV)/group-test $(VENV)/group-demo
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --quiet --offline .github

# A build that counts how often each line is run: GCC's. Counts add up, so those of before go first.
# NumPy does not resize arrays that coverage's tracer refers to; the tracer is lost where Python's
# allocations fail, and cannot start in a second interpreter: those tests run without it.
UNTRACED := resize or many_sizes or any_allocation_of_python or another_interpreter
coverage:
	CC=gcc FASTLAYERS_COVERAGE=1 $(MAKE) VENV=build/venv-coverage covered

covered: $(VENV)/installed $(VENV)/group-test $(VENV)/group-coverage
	rm -f build/coverage/python.*; find build/coverage -name '*.gcda' -delete
	$(BIN)/coverage run -m pytest -k "not ($(UNTRACED))"
	$(BIN)/python -m pytest -k "$(UNTRACED)"
	$(BIN)/python tools/coverage_report.py

clean:
	rm -rf $(VENV) build dist .benchmarks .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find src -name '*.egg-info' -prune -exec rm -rf {} +

# pip older than 25.1 knows no dependency groups.
$(BIN)/pip-upgraded:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	touch $@

# The package is installed as users have it, not in place: nothing is built into the source tree.
$(VENV)/installed: $(SOURCES) $(VENV)/group-build
	$(PIP) install --no-build-isolation --force-reinstall --no-deps .
	touch $@

$(VENV)/group-%: pyproject.toml $(BIN)/pip-upgraded
	$(PIP) install --group $*
	touch $@
