"""The tool that breaks runs finds what is lost, and says so."""

import re

import pytest
import torch

from alexnet_dali.tools.faults import __main__ as faults
from alexnet_dali.tools.faults.rows import FAULTS
from alexnet_dali.tools.faults.runs import difference


@pytest.mark.slow
def test_a_short_form_of_the_table(capsys):
    faults.main(["--only", "a bit of a checkpoint", "--times", "4"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "bit of" in line]
    assert re.search(r"\|\s+4 \|\s+4 \| nothing", line) and "checksum" in line


def test_a_difference_of_one_bit_is_a_loss():
    weights = torch.randn(3, generator=torch.Generator().manual_seed(0))
    other = weights.clone()
    other.view(torch.int32)[1] ^= 1
    state = {"step": 3, "model": {"a": weights}, "momentum": {"a": weights}}
    assert difference(state, state) == "nothing"
    assert difference(state | {"model": {"a": other}}, state) == "1 tensors differ"
    assert difference(state | {"step": 4}, state) == "step 4 in place of 3"


def test_what_is_lost_ends_the_command_with_a_message(monkeypatch, capsys):
    lost = faults.Fault("a fault", lambda bench, times: iter([faults.Outcome("two", "")]), 1)
    monkeypatch.setattr(faults, "FAULTS", [lost])
    monkeypatch.setattr(faults.Bench, "prepare", lambda bench: None)
    with pytest.raises(ValueError, match="something was lost by: a fault"):
        faults.main([])
    assert "two" in capsys.readouterr().out
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
