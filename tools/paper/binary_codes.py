"""Short binary codes of the features, by an autoencoder (end of section 6.1).

"Computing similarity by using Euclidean distance between two 4096-dimensional, real-valued vectors
is inefficient, but it could be made efficient by training an auto-encoder to compress these vectors
to short binary codes."
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dali.pipeline.system.progress import progress
from alexnet_dali.tools.paper.drawing import BLUE, RED, Figure
from alexnet_dali.tools.paper.neighbors import COUNT, same_label
from alexnet_dali.tools.tables import markdown

_HIDDEN, _BATCH, _STEPS = 512, 256, 1500
_NOISE = 4.0
"""Standard deviation of the noise on the codes' inputs.

Only values far from the threshold get through it.
"""


class AutoEncoder(nn.Module):
    """Features [N, width] through `bits` logistic units and back (Krizhevsky and Hinton, 2011).

    Noise makes them binary, as in Salakhutdinov and Hinton's semantic hashing (2007).
    """

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, bits))
        self.decoder = nn.Sequential(nn.Linear(bits, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, width))

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """The features again, from codes whose inputs got `noise` [N, bits]."""
        return self.decoder(torch.sigmoid(self.encoder(features) + noise))


def learn(
    features: NDArray[np.float32], bits: int, seed: int = 0
) -> Callable[[NDArray[np.float32]], NDArray[np.uint8]]:
    """Train an autoencoder on features [N, width]; returns a function that encodes others."""
    torch.manual_seed(seed)
    mean, scale = features.mean(0), features.std() + 1e-12
    data = torch.from_numpy((features - mean) / scale)
    model = AutoEncoder(data.shape[1], bits)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with progress(_STEPS, f"learning {bits} bits", "steps") as advance:
        for _ in range(_STEPS):
            batch = data[torch.randint(len(data), (_BATCH,))]
            loss = F.mse_loss(model(batch, _NOISE * torch.randn(_BATCH, bits)), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(1)

    @torch.no_grad()
    def encode(others: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.packbits(
            model.encoder(torch.from_numpy((others - mean) / scale)).numpy() > 0, axis=1
        )

    return encode


class Retrieval(NamedTuple):
    """How well one kind of search finds neighbours."""

    name: str
    bytes_per_image: int
    same_label: float  # share of the ten nearest that have the query's label
    queries_per_second: float  # the search alone, with the queries already described and encoded


def compare(
    train: NDArray[np.float32],
    val: NDArray[np.float32],
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    all_bits: list[int],
) -> list[Retrieval]:
    """Neighbours of `val` features among `train` features: full vectors and codes."""
    if len(train) < COUNT:
        raise ValueError(
            f"found {len(train)} training images; expected {COUNT} or more to find neighbours among"
        )
    import faiss

    exact = faiss.IndexFlatL2(train.shape[1])
    rows = [_measure("full vectors", exact, train, val, labels)]
    for bits in all_bits:
        encode = learn(train, bits)
        rows.append(
            _measure(
                f"{bits} bits", faiss.IndexBinaryFlat(bits), encode(train), encode(val), labels
            )
        )
    return rows


def _measure(
    name: str, index: Any, database: NDArray, queries: NDArray, labels: tuple[NDArray, NDArray]
) -> Retrieval:
    index.add(database)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        _, found = index.search(queries, COUNT)
        times.append(time.perf_counter() - start)
    share = same_label(labels[0], found, labels[1])
    return Retrieval(name, database[0].nbytes, share, len(queries) / float(np.median(times)))


def table(rows: list[Retrieval]) -> str:
    """A line for each search, with its speed against the first one's."""
    lines = [
        [
            row.name,
            str(row.bytes_per_image),
            f"{row.same_label:.1%}",
            f"{row.queries_per_second:,.0f}",
            f"{ratio:.1f}",
        ]
        for row in rows
        for ratio in [row.queries_per_second / rows[0].queries_per_second]
    ]
    headings = [
        "neighbours by",
        "bytes an image",
        "same label among the ten nearest",
        "searches/s",
        "times as fast",
    ]
    return markdown(lines, headings)


def draw(rows: list[Retrieval], num_images: int) -> Figure:
    """Quality and speed by the length of the code."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    names = [row.name for row in rows]
    panels = {
        "same label among the ten nearest, %": [100 * row.same_label for row in rows],
        f"searches a second among {num_images:,} images": [row.queries_per_second for row in rows],
    }
    for axes, (title, values) in zip(figure.subplots(1, 2, sharey=True), panels.items()):
        bars = axes.barh(names, values, color=[RED] + [BLUE] * (len(rows) - 1), alpha=0.7)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axes.set_xlim(0, 1.15 * max(values))
        axes.set_xlabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    return figure
