"""The Makefile, with a stand-in for Python that notes how it is called."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_IN = """#!/bin/bash
case "$*" in
    *ensurepip*) exit {status} ;;
    --version) echo Python 3.10.12 ;;
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    *) echo "$* $PIP_USER $PYTHONPATH $PYTHONHOME" >> asked ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    def run(status, *words):
        (tmp_path / "python").write_text(STAND_IN.format(status=status))
        (tmp_path / "python").chmod(0o755)
        lost = {"PYTHONPATH": "/opt/ros", "PYTHONHOME": "/opt/spack", "PIP_USER": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "TORCH"}
        return subprocess.run(
            ["make", ".venv/demo", f"PYTHON={tmp_path}/python", *words],
            cwd=tmp_path,
            env=environment | lost,
            capture_output=True,
            text=True,
        )

    return run


def test_it_installs_the_pytorch_that_was_tried_whatever_leads_pip_elsewhere(make, tmp_path):
    assert make(0).returncode == 0
    asked = (tmp_path / "asked").read_text()
    assert re.search(r"^-m pip install torch==2\.13\.0 0  $", asked, re.MULTILINE)
    cpu = "torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
    (tmp_path / ".venv/demo").unlink()
    assert make(0, f"TORCH={cpu}").returncode == 0
    assert f"-m pip install {cpu} 0" in (tmp_path / "asked").read_text()


def test_a_python_that_will_not_do_is_refused_before_anything_is_made(make, tmp_path):
    """Too old, or Debian's without python3-venv: the next make would find a half-made .venv."""
    result = make(1)
    assert result.returncode and not (tmp_path / ".venv").exists()
    assert "found " in result.stderr and "Python 3.10.12; expected Python 3.11 to" in result.stderr
    assert "apt install python3-venv" in result.stderr
