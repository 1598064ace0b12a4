"""What `fastlayers.show_config` and ``python -m fastlayers`` tell: the truth, on any build."""

from __future__ import annotations

import os
import platform

import fresh
import numpy as np
import pytest

import fastlayers
from fastlayers import about, config, limits

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


def test_native_build():
    if fastlayers.IMPLEMENTATION != "native":
        pytest.skip("there is no compiled part to tell of")
    from fastlayers._core import simd
    from fastlayers._core.frontend import schedule

    told = fastlayers.show_config("dicts")
    assert told["fastlayers"]["reason"] is None
    assert told["threads"]["forked"] is False
    assert told["instruction_sets"]["in_use"] == simd.in_use()
    assert told["thresholds"] == schedule.get_thresholds()
    build = told["build"]
    assert {"dispatch", "schedule", "memory"} < set(build["flags"])
    assert f"kernels_{simd.in_use().replace('-', '_')}" in build["flags"]
    assert int(build["cython"].split(".")[0]) >= 3
    assert int(build["numpy"].split(".")[0]) >= 2


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
    lines = lines_of("-c", BLOCK + SHOW)
    assert "implementation: reference" in lines
    assert any(
        line.startswith("reason: the compiled part of fastlayers cannot be") for line in lines
    )


def test_help_and_arguments_that_are_not_known():
    lines = lines_of("-m", "fastlayers", "--help")
    assert lines[0].startswith("usage: python -m fastlayers")
    assert "what a bug report needs" in " ".join(lines)
    for argument in ("--json", "threads"):
        result = fresh.run("-m", "fastlayers", argument)
        assert (result.returncode, result.stdout) == (2, "")
        assert argument in result.stderr


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["processor\t: 0", "model name\t: Z80"], "Z80"),
        (
            ["cpu family\t: 25", "model name\t: AMD EPYC", "stepping\t: 1"],
            "AMD EPYC (cpu family 25, stepping 1)",
        ),
        (["model name\t: first", "", "model name\t: second"], "first"),
        (
            ["CPU implementer\t: 0x41", "CPU part\t: 0xd0c"],
            "aarch64 (CPU implementer 0x41, CPU part 0xd0c)",
        ),
        ([], "aarch64"),
    ],
)
def test_name_of_the_processor(monkeypatch, lines, name):
    monkeypatch.setattr(limits, "_lines", lambda path: lines)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert limits.cpu_name() == name
