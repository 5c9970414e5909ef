import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from alexnet_dali.tools.paper import curves, figures, kernels
from alexnet_dali.train.networks import open_network, predict
from alexnet_dali.train.parallel.ranks import join


def test_the_colour_share_tells_grey_from_coloured_kernels():
    """The share is 0 for grey, 1 for red against green, and two thirds for red alone.

    The other third of red alone is brightness.
    """
    some = np.zeros((3, 3, 2, 2), np.float32)
    some[0] = np.array([[1, -1], [2, 0]])
    some[1, 0], some[1, 1] = 1, -1
    some[2, 0] = 5
    np.testing.assert_allclose(kernels.colour_share(some), [0, 1, 2 / 3], atol=1e-12)


def test_noise_has_the_share_of_colour_that_the_picture_says():
    """Of three independent channels, the mean takes a third of the energy."""
    assert abs(kernels.whole_colour_share(kernels.noise((4000, 3, 5, 5))) - kernels.NOISE) < 0.005


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
    for name, more in (("young", {}), ("old", {"val/top1_error": 0.5, "val/loss": 1.2})):
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
    draw, options, _ = figures._arguments(command)
    figure = draw(**options)
    left, right = (
        [line.get_color() for line in axes.lines if len(line.get_xdata())] for axes in figure.axes
    )
    assert len(set(left)) == 2 and left[1:] == 2 * right
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["young", "old"]


def test_drops_of_the_learning_rate_lie_where_the_epoch_ended():
    """The log shows a drop some steps late; small steps of an exponential decay are no drops."""
    rates = {20: 0.1, 40: 0.1, 60: 0.01, 80: 0.009, 100: 0.008, 120: 0.001}
    assert curves.drops(rates, [25, 50, 75]) == [(50, 0.01), (100, 0.001)]


def test_long_curves_are_means_of_neighbours():
    """A thousand lines: no point is lost, and short curves are left as they are."""
    values = {step: float(np.sin(step)) for step in range(1, 1001)}
    steps, heights = curves._thinned(values)
    assert len(steps) == 334 and steps[:2].tolist() == [2, 5] and steps[-1] == 1000
    np.testing.assert_allclose(heights[0], np.mean([np.sin(n) for n in (1, 2, 3)]), atol=1e-12)
    steps, heights = curves._thinned({3: 0.5, 7: 0.25})
    assert steps.tolist() == [3, 7] and heights.tolist() == [0.5, 0.25]
    assert [len(part) for part in curves._thinned({})] == [0, 0]


@pytest.mark.parametrize(
    "name, kind", [("x.pdf", b"%PDF"), ("x.jpg", b"\xff\xd8"), ("x.JPEG", b"\xff\xd8")]
)
def test_a_pictures_name_says_its_format(name, kind, trained, tmp_path):
    figures.main(["kernels", str(trained), "--out", str(tmp_path / name)])
    assert (tmp_path / name).read_bytes().startswith(kind)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.txt", "x"])
def test_other_names_are_refused_before_anything_is_computed(name, tmp_path):
    with pytest.raises(ValueError, match=r"a name that ends in \.png, \.svg, \.pdf or \.jpg"):
        figures.main(["kernels", "nowhere", "--out", str(tmp_path / name)])


def test_no_label_lies_across_the_end_of_a_bar():
    """Names and per cents stand above the bars."""
    axes = Figure().subplots()
    figures._bars(
        axes, np.array([0.62, 0.3, 0.08]), 1, ["a name of a class, which is far too long", "b", "c"]
    )
    assert "a name of a class, w\N{HORIZONTAL ELLIPSIS}" in [text.get_text() for text in axes.texts]
    assert [text.get_text() for text in axes.texts[1::2]] == ["8%", "30%", "62%"]
    bars = sorted(bar.get_y() + bar.get_height() for bar in axes.patches)
    for text, top in zip(axes.texts[::2], bars):
        assert text.get_va() == "bottom" and text.get_position()[1] > top


def test_every_run_is_inside_the_axes(tmp_path):
    """Whichever run comes first, the others' losses may be larger."""
    runs = []
    for name, scale in (("small", 1.0), ("large", 9.0), ("smaller", 0.5)):
        lines = [{"step": int(step * scale), "epoch": 0, "train/loss": scale} for step in (10, 20)]
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
        runs.append(curves.read(tmp_path / name))
    axes = curves.draw(runs).axes[0]
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 9 and axes.get_xlim()[1] > 180


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
        network = open_network(trained, ranks.device)
        (everything,), labels = predict([network], dataset, ranks, num_views=10)
    chosen = np.random.default_rng(0).permutation(15)[:4]
    assert [label for _, label in drawn] == labels[chosen].tolist()
    np.testing.assert_allclose([scores for scores, _ in drawn], everything[chosen], atol=1e-6)
