import itertools

import numpy as np
import pytest
import torch
from PIL import ImageDraw
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from alexnet_dali.train.record import pictures


def test_a_batch_is_drawn_with_zero_as_grey():
    images = torch.zeros(20, 3, 10, 12)
    images[1, 0], images[8, 2] = 300, -100.6
    grid = pictures.batch_grid(images)
    assert grid.shape == (2 * 12, 8 * 14, 3)
    assert (grid[1:11, 1:13] == 128).all()
    assert (grid[1:11, 15:27] == [255, 128, 128]).all() and (
        grid[13:23, 1:13] == [128, 128, 27]
    ).all()
    assert (grid[0] == 0).all()
    assert pictures.batch_grid(torch.zeros(128, 3, 224, 224)).shape == (2 * 226, 4 * 226, 3)
    assert pictures.batch_grid(torch.zeros(1, 3, 224, 224)).shape == (226, 226, 3)


def test_kernels_are_drawn_column_by_column():
    """The second column's kernels are red, and below the first's."""
    kernels = np.full((32, 3, 5, 5), -1, np.float32)
    kernels[16:, 0] = 1
    grid = pictures.kernel_grid(kernels, num_columns=2)
    middle = len(grid) // 2
    red = (grid == [255, 0, 0]).all(-1)
    assert not red[:middle].any() and red[middle:].sum() == (grid[:middle] == 0).all(-1).sum() > 0
    kernels[0] = np.nan
    pictures.kernel_grid(kernels, num_columns=2)


@pytest.mark.parametrize("count", [8, 3])
@pytest.mark.parametrize("num_classes", [2, 7])
def test_texts_of_predictions_never_meet(count, num_classes, monkeypatch):
    """However wide the names are, and where one guess takes all."""
    boxes = []
    text = ImageDraw.ImageDraw.text

    def noted(self, place, words, fill, font, anchor):
        boxes.append(self.textbbox(place, words, font, anchor=anchor))
        text(self, place, words, fill, font, anchor=anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (count, 30, 30, 3), np.uint8)
    scores = np.eye(num_classes)[rng.integers(0, num_classes, count)]
    names = ["W" * 300, "$x$ " * 30, "口" * 99, "ﷺ" * 9, "", "g" * 40, "fish"][:num_classes]
    picture = pictures.predictions(squares, [1] * count, scores, names)
    assert len(boxes) == count * (1 + 2 * min(5, num_classes)) + 1
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        empty = one[0] >= one[2] or other[0] >= other[2]
        assert apart or empty, (one, other)
    for left, top, right, bottom in boxes:
        assert left >= 0 and right <= picture.shape[1] and top >= 0 and bottom <= picture.shape[0]


@pytest.mark.parametrize("label, place", [(2, 0), (0, 1), (6, None)])
def test_the_bar_of_the_right_class_alone_is_red_as_in_figure_4(label, place):
    scores = np.array([[0.3, 0.0, 0.7, 0.0, 0.0, 0.0, 0.0]])  # class 6 is not among the five
    picture = pictures.predictions(
        np.zeros((1, 8, 8, 3), np.uint8), [label], scores, list("abcdefg")
    )
    red = (picture == [0xEF, 0xB2, 0xB5]).all(-1).any(1).nonzero()[0]
    rows = {(row - 8) // 20 - 1 for row in red.tolist()}
    assert rows == (set() if place is None else {place})


def test_a_network_that_has_diverged_is_drawn_all_the_same():
    nan = np.full((2, 4), np.nan)
    pictures.predictions(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], nan, list("abcd"))


def test_a_run_shows_pictures_its_recipe_and_errors_first(trained):
    """`trained` ends at step 4; its epochs have three steps."""
    events = EventAccumulator(str(trained), size_guidance={"images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    groups = list(dict.fromkeys(tag.split("/")[0] for tag in sorted(tags["scalars"])))
    assert groups[:3] == ["errors", "learning", "throughput"]
    assert all(tag.startswith("pictures/") for tag in tags["images"])
    assert len(tags["images"]) == 3
    for tag in tags["images"]:
        assert [event.step for event in events.Images(tag)] == [1, 3], tag
    assert {event.step for event in events.Scalars("weights_update_ratio/conv1")} == {1, 3}
    (recipe,) = events.Tensors("2 recipe/text_summary")
    assert b"fc_width: 24" in recipe.tensor_proto.string_val[0]
    hparams = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(hparams["_hparams_/session_start_info"])
    options = start.session_start_info.hparams
    assert options["optim.lr"].number_value == 0.02 and options["train.seed"].number_value == 0
    assert "train.precision" not in options and "data.root" not in options
    (layout,) = events.Tensors("custom_scalars__config__")
    pages = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0])
    charts = pages.category[0].chart
    assert [page.title for page in pages.category][:3] == ["errors", "learning", "throughput"]
    assert list(charts[0].multiline.tag) == ["errors/top1_train", "errors/top1_val"]
    shown = {tag for page in pages.category for chart in page.chart for tag in chart.multiline.tag}
    on_gpus = {"throughput/gpu_busy_fraction"}
    assert {tag for tag in shown if "*" not in tag} <= set(tags["scalars"]) | on_gpus
