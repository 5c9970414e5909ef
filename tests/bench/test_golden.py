import pytest

from alexnet_dali.tools.bench import golden


def test_the_golden_file_has_a_loss_for_every_step():
    lines = [line.split() for line in golden.GOLDEN.read_text().splitlines()]
    assert [int(step) for step, _ in lines] == list(range(1, golden.NUM_STEPS + 1))
    assert len(golden.read(golden.GOLDEN)) == golden.NUM_STEPS


def test_a_path_with_other_losses_is_an_error(monkeypatch):
    """One of 200 losses is off by twice the tolerance, on the compiled path alone."""
    right = golden.read(golden.GOLDEN)
    wrong = [loss + 2e-4 * (step == 150) for step, loss in enumerate(right, 1)]
    monkeypatch.setattr(golden.Dataset, "open", lambda folder: None)
    monkeypatch.setattr(golden, "train", lambda data, compiled: wrong if compiled else right)
    with pytest.raises(ValueError, match="compiled path's loss at step 150"):
        golden.main(["--data", "anything"])


def test_a_run_of_another_length_is_an_error():
    with pytest.raises(ValueError):
        golden.largest_difference([1.0], [1.0, 2.0])
