"""What `fastlayers.show_config` and ``python -m fastlayers`` tell: the truth, on any build."""

from __future__ import annotations

import os

import fresh
import numpy as np
import pytest

import fastlayers
from fastlayers import about, limits

BLOCK = "import sys; sys.modules['fastlayers._core'] = None\n"
SHOW = (
    "import warnings; warnings.simplefilter('ignore')\nimport fastlayers; fastlayers.show_config()"
)


def lines_of(*arguments, **variables):
    return [line.strip() for line in fresh.lines_of(*arguments, **variables)]


@pytest.mark.parametrize("mode", ["yaml", "", None, 3])
def test_unknown_mode(mode):
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts'") as caught:
        fastlayers.show_config(mode)
    assert repr(mode) in str(caught.value)


def test_dicts_and_what_is_printed_agree(capsys):
    config = fastlayers.show_config(mode="dicts")
    assert capsys.readouterr().out == ""
    assert fastlayers.show_config() is None
    printed = capsys.readouterr().out.splitlines()
    assert [line[:-1] for line in printed if line[0] != " "] == list(config)
    assert f"  version: {fastlayers.__version__}" in printed
    assert f"  NumPy: {np.__version__}" in printed
    assert config["fastlayers"]["implementation"] == fastlayers.IMPLEMENTATION
    assert config["Memory cache"]["limit"] == fastlayers.cache_info().limit
    assert config["Runs on"]["CPU"]


def test_native_build():
    if fastlayers.IMPLEMENTATION != "native":
        pytest.skip("there is no compiled part to tell of")
    from fastlayers._core import simd

    before = fastlayers.get_num_threads()
    fastlayers.set_num_threads(1)
    try:
        config = fastlayers.show_config("dicts")
    finally:
        fastlayers.set_num_threads(before)
    assert config["Threads"]["number"] == 1
    assert config["Threads"]["forked"] is False
    assert config["Instruction sets"]["in use"] == simd.in_use()
    build = config["Build"]
    assert set(build) == {"compiler", "command", "flags", "NumPy", "Cython"}
    assert {"dispatch", "memory"} < set(build["flags"])
    assert f"kernels_{simd.in_use().replace('-', '_')}" in build["flags"]
    assert int(build["Cython"].split(".")[0]) >= 3
    assert int(build["NumPy"].split(".")[0]) >= 2


def test_forked_child():
    if fastlayers.IMPLEMENTATION != "native" or not hasattr(os, "fork"):
        pytest.skip("nothing forks here")
    code = "import os, fastlayers\nif os.fork() == 0: fastlayers.show_config()\nelse: os.wait()"
    lines = lines_of("-W", "ignore", "-c", code)
    assert "forked: True" in lines
    assert "number: 1" in lines


def test_environment_is_shown():
    variables = {"OMP_NUM_THREADS": "3", "FASTLAYERS_CACHE_LIMIT": "12345"}
    variables["OMP_WAIT_POLICY"] = "passive"
    lines = lines_of("-m", "fastlayers", **variables)
    for name in about.ENVIRONMENT:
        assert f"{name}: {variables.get(name, 'not set')}" in lines
    assert "limit: 12345" in lines or fastlayers.IMPLEMENTATION == "reference"


def test_why_the_compiled_part_is_not_in_use():
    lines = lines_of("-m", "fastlayers", FASTLAYERS_IMPLEMENTATION="reference")
    assert "implementation: reference" in lines
    assert "reason: FASTLAYERS_IMPLEMENTATION is 'reference'" in lines
    assert "Build:" not in lines
    lines = lines_of("-c", BLOCK + SHOW)
    assert "implementation: reference" in lines
    assert any(line.startswith("reason: the compiled part cannot be imported: ") for line in lines)


def test_name_of_the_processor(monkeypatch):
    monkeypatch.setattr(limits, "_lines", lambda path: ["processor\t: 0", "model name\t: Z80"])
    assert limits.cpu_name() == "Z80"
    monkeypatch.setattr(limits, "_lines", lambda path: [])
    assert limits.cpu_name()
