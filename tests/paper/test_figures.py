import json

import numpy as np
import pytest
from PIL import Image

from tools.paper import figures
from train.distributed import join
from train.trained import open_network, predict


def test_the_colour_share_tells_grey_from_coloured_kernels():
    """The share is 0 for grey, 1 for red against green, and two thirds for red alone.

    The other third of red alone is brightness.
    """
    kernels = np.zeros((3, 3, 2, 2), np.float32)
    kernels[0] = np.array([[1, -1], [2, 0]])
    kernels[1, 0], kernels[1, 1] = 1, -1
    kernels[2, 0] = 5
    np.testing.assert_allclose(figures.colour_share(kernels), [0, 1, 2 / 3], atol=1e-12)


@pytest.mark.parametrize("figure", ["kernels", "curves", "predictions"])
def test_figures_are_drawn_as_png_and_svg(figure, trained, prepared, tmp_path):
    data = (
        ["--data", str(prepared), "--images", "5", "--device", "cpu"]
        if figure == "predictions"
        else []
    )
    if figure == "curves":
        lines = [{"step": 3, "epoch": 1, "train/loss": 1.0, "val/top1_error": 0.5}] * 2
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        trained = tmp_path
    figures.main([figure, str(trained), *data, "--out", str(tmp_path / "out/figure.png")])
    with Image.open(tmp_path / "out/figure.png") as picture:
        assert min(picture.size) > 200 and len(np.unique(np.asarray(picture))) > 20
    assert (tmp_path / "out/figure.svg").read_text().count("<path") > 3


def test_a_run_has_one_colour_in_both_panels_and_is_in_the_legend_from_the_start(tmp_path):
    for name, more in (("young", {}), ("old", {"val/top1_error": 0.5})):
        (tmp_path / name).mkdir()
        line = {"step": 3, "epoch": 1, "train/loss": 1.0, **more}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    command = [
        "curves",
        str(tmp_path / "young"),
        str(tmp_path / "old"),
        "--out",
        str(tmp_path / "curves.png"),
    ]
    args = figures._arguments(command)
    figure = args.draw(args)
    left, right = (
        [line.get_color() for line in axes.lines if len(line.get_xdata())] for axes in figure.axes
    )
    assert len(set(left)) == 2 and right == left[1:]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["young", "old"]


def test_curves_without_a_run_or_from_a_damaged_file_are_an_error(tmp_path):
    command = ["curves", str(tmp_path), "--out", str(tmp_path / "curves.png")]
    with pytest.raises(ValueError, match=r"no training loss in its metrics\.jsonl"):
        figures.main(command)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "tra\n{"step": 2, "train/loss": 2.0}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        figures.main(command)


def test_predictions_belong_to_the_images_that_are_shown(
    trained, prepared, dataset, tmp_path, monkeypatch
):
    """Only a few of many images are drawn; each must keep its own label and scores."""
    drawn = []
    monkeypatch.setattr(
        figures, "_bars", lambda axes, scores, label, names: drawn.append((scores, label))
    )
    command = [
        "predictions",
        str(trained),
        "--data",
        str(prepared),
        "--images",
        "4",
        "--device",
        "cpu",
    ]
    figures.main([*command, "--out", str(tmp_path / "x.png")])
    with join("cpu", num_columns=1) as ranks:
        everything, labels = predict(
            open_network(trained, ranks.device), dataset, ranks, num_views=10
        )
    chosen = np.random.default_rng(0).permutation(15)[:4]
    assert [label for _, label in drawn] == labels[chosen].tolist()
    np.testing.assert_allclose([scores for scores, _ in drawn], everything[chosen], atol=1e-6)


def test_names_that_fit_no_class_are_refused(trained, prepared, tmp_path):
    (tmp_path / "words.txt").write_text("n1\tdog\n")
    command = [
        "predictions",
        str(trained),
        "--data",
        str(prepared),
        "--names",
        str(tmp_path / "words.txt"),
    ]
    with pytest.raises(ValueError, match=r"words\.txt: expected a line 'class name' for each"):
        figures.main([*command, "--out", str(tmp_path / "x.png")])
