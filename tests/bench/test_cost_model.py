"""The cost model: DESIGN.md holds its tables, and its limiting cases are right."""

from pathlib import Path

import pytest

from alexnet_dali.tools.bench import cost_model
from alexnet_dali.tools.bench.cost_model import LINKS, Link, predict
from alexnet_dali.tools.bench.traffic import bytes_per_step, column_parameters


def test_design_md_holds_the_tables_of_the_model():
    design = (Path(__file__).parents[2] / "DESIGN.md").read_text()
    assert cost_model.tables() in design and cost_model.break_even_lines() in design
    network = (cost_model.NETWORK, 1000, 224)
    assert f"{column_parameters(*network):,}" in design
    fp32, bf16 = (
        bytes_per_step(*network, 1, 1, precision).columns for precision in ("fp32", "bf16")
    )
    assert f"B ({(fp32 - bf16) / 2:,.0f} e + {2 * bf16 - fp32:,.0f});" in design


@pytest.mark.parametrize(("num_gpus", "batch_size"), [(2, 128), (8, 128), (8, 512)])
def test_imagenet_md_predicts_what_the_model_says(num_gpus, batch_size):
    page = (Path(__file__).parents[2] / "docs/imagenet.md").read_text()
    for link in LINKS[:2]:
        assert f"{batch_size / predict(num_gpus, batch_size, link).seconds:,.0f}" in page


def test_over_an_infinitely_fast_link_only_computing_takes_time(monkeypatch):
    monkeypatch.setattr(cost_model, "host_seconds", lambda images: 0)
    step = predict(64, 4096, Link("ideal", float("inf"), 0))
    assert step.seconds == step.compute and step.limit == "compute"


@pytest.mark.parametrize(("num_gpus", "batch_size"), [(8, 128), (64, 4096)])
def test_a_step_is_never_faster_over_a_slower_link(num_gpus, batch_size):
    seconds = [predict(num_gpus, batch_size, link).seconds for link in LINKS]
    assert seconds == sorted(seconds)


def test_a_slow_host_limits_whatever_the_gpus_take(monkeypatch):
    monkeypatch.setattr(cost_model, "host_seconds", lambda images: 1.0)
    step = predict(8, 128, LINKS[-1])
    assert step.seconds == 1 and step.limit == "host"
    monkeypatch.setattr(cost_model, "host_seconds", lambda images: 0.003)
    step = predict(8, 128, LINKS[-1])
    parts = step.compute + step.columns + step.inputs + step.gradients
    assert step.seconds == pytest.approx(parts) and step.limit == "gradients"


def test_the_host_pays_for_a_batch_its_images_and_the_steps_operations(monkeypatch):
    figures = {"FEED_MS": 2, "FURTHER_IMAGE_US": 5, "STEP_MS": 3, "OPERATIONS": 100, "LAUNCH": 1e-5}
    for name, value in figures.items():
        monkeypatch.setattr(cost_model, name, value)
    assert cost_model.host_seconds(128) == pytest.approx(0.002 + 0.003 + 0.001)
    assert cost_model.host_seconds(28) == pytest.approx(0.0015 + 0.003 + 0.001)


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
