"""The cost model: DESIGN.md holds its tables, and its limiting cases are right."""

from pathlib import Path

import pytest

from tools.bench import cost_model
from tools.bench.cost_model import LINKS, Link, predict
from tools.bench.traffic import bytes_per_step, column_parameters


def test_design_md_holds_the_tables_of_the_model():
    design = (Path(__file__).parents[2] / "DESIGN.md").read_text()
    assert cost_model.tables() in design and cost_model.break_even_lines() in design
    network = (cost_model.NETWORK, 1000, 224)
    assert f"{column_parameters(*network):,}" in design
    fp32, bf16 = (
        bytes_per_step(*network, 1, 1, precision).columns for precision in ("fp32", "bf16")
    )
    assert f"B ({(fp32 - bf16) / 2:,.0f} e + {2 * bf16 - fp32:,.0f});" in design


def test_over_an_infinitely_fast_link_only_computing_takes_time():
    step = predict(64, Link("ideal", float("inf"), 0))
    assert step.seconds == step.compute and step.limit == "compute"


@pytest.mark.parametrize("num_gpus", [8, 64])
def test_a_step_is_never_faster_over_a_slower_link(num_gpus):
    seconds = [predict(num_gpus, link).seconds for link in LINKS]
    assert seconds == sorted(seconds)


def test_the_split_of_2014_breaks_even_where_both_send_the_same_bytes():
    """Bytes counted by hand for eight GPUs, which are four pairs of columns.

    The split of 2014 sends the gradients of 2.33 million weights in a ring, and seven others'
    activations.
    """
    images = cost_model.one_weird_trick_break_even(8)
    convolutions = 34_944 + 2 * (128 * 48 * 25 + 128) + 384 * 256 * 9 + 384 + 2 * (192**2 * 9 + 192)
    convolutions += 2 * (128 * 192 * 9 + 128)
    theirs = 2 * 7 / 8 * 4 * convolutions + 7 * images * (2 * 2 * (9216 + 4096 + 4096) + 4 * 1000)
    ours = 2 * 3 / 4 * 4 * 60_965_224 / 2 + 2 * images * (2 * (256 * 169 + 9216 + 8192) + 4 * 500)
    assert theirs == pytest.approx(ours)
