"""What `fastlayers.show_config` and ``python -m fastlayers`` tell: the truth, on any build."""

from __future__ import annotations

import os

import fresh
import numpy as np
import pytest

import fastlayers
from fastlayers import about, config, core


def lines_of(*arguments, **variables):
    return [line.strip() for line in fresh.lines_of(*arguments, **variables)]


@pytest.mark.parametrize("mode", ["yaml", "", None, 3])
def test_unknown_mode(mode):
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts'") as caught:
        fastlayers.show_config(mode)
    assert repr(mode) in str(caught.value)


def test_dicts_and_what_is_printed_agree(capsys):
    told = fastlayers.show_config(mode="dicts")
    assert capsys.readouterr().out == ""
    assert fastlayers.show_config() is None
    printed = capsys.readouterr().out.splitlines()
    headings = [line[:-1] for line in printed if line[0] != " "]
    assert headings == [section for section in told if section in headings]
    assert {*told} - {*headings} <= {"environment"}  # where nothing is set
    assert f"  version: {fastlayers.__version__}" in printed
    assert f"  numpy: {np.__version__}" in printed
    assert f"  cpu: {told['machine']['cpu']}" in printed
    assert told["fastlayers"]["implementation"] == fastlayers.IMPLEMENTATION
    assert told["cache"] == fastlayers.cache_info()._asdict()
    assert told["threads"]["number"] == fastlayers.get_num_threads()
    if fastlayers.IMPLEMENTATION == "native":
        assert told["fastlayers"]["reason"] is None
        assert told["thresholds"] == core.schedule.get_thresholds()
        kernels = told["instruction_sets"]["in_use"]
        assert kernels == core.simd.in_use()
        assert f"kernels_{kernels.replace('-', '_')}" in told["build"]["flags"]


def test_forked_child():
    if fastlayers.IMPLEMENTATION != "native" or not hasattr(os, "fork"):
        pytest.skip("nothing forks here")
    code = "import os, fastlayers\nif os.fork() == 0: fastlayers.show_config()\nelse: os.wait()"
    lines = lines_of("-W", "ignore", "-c", code)
    assert "forked: True" in lines
    assert "number: 1" in lines


def test_environment_is_shown():
    variables = {"OMP_NUM_THREADS": "3", "FASTLAYERS_CACHE_LIMIT": "12345"}
    lines = lines_of("-m", "fastlayers", OMP_WAIT_POLICY="passive", **variables)
    for name, value in variables.items():
        assert f"{name}: {value}" in lines
    assert "OMP_WAIT_POLICY: passive" in lines
    assert "limit: 12345" in lines or fastlayers.IMPLEMENTATION == "reference"
    assert set(config.VARIABLES) < set(about.ENVIRONMENT)


def test_why_the_compiled_part_is_not_in_use():
    lines = lines_of("-m", "fastlayers", FASTLAYERS_IMPLEMENTATION="reference")
    assert "implementation: reference" in lines
    assert "reason: FASTLAYERS_IMPLEMENTATION is 'reference'" in lines
    assert "build:" not in lines


def test_help_and_arguments_that_are_not_known():
    lines = lines_of("-m", "fastlayers", "--help")
    assert lines[0].startswith("usage: python -m fastlayers")
    assert "what a bug report needs" in " ".join(lines)
    for argument in ("--json", "threads"):
        result = fresh.run("-m", "fastlayers", argument)
        assert (result.returncode, result.stdout) == (2, "")
        assert argument in result.stderr
