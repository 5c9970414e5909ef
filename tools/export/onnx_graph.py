"""A trained network as an ONNX graph, held against the network itself (needs onnx and friends)."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401  # torch.onnx.export needs it, and would say so late
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_dali.tools.export.check import Answer
from alexnet_dali.tools.export.plain import metadata, plain
from alexnet_dali.tools.export.plain_alexnet import AlexNet
from alexnet_dali.train.evaluation import centre_view
from alexnet_dali.train.networks import Trained


class _NetworkAlone(nn.Module):
    """Crops less their mean to logits."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        for module in list(self.network.children())[1:]:  # all but `centre`
            crops = module(crops)
        return crops


class _WithPreprocessing(_NetworkAlone):
    """Central squares as they are read to probabilities."""

    def forward(self, squares: Tensor) -> Tensor:
        return self.network(squares).softmax(1)


def onnx_model(network: Trained, preprocessing: bool, opset: int, card: str) -> bytes:
    """The graph, with its weights and a batch of any size; ValueError where `opset` can't be had.

    It reads `crops` [N, 3, crop, crop] float32, whose mean is subtracted, and gives `logits`. With
    `preprocessing` it reads `squares` [N, 3, resize, resize] uint8, RGB, and gives `probabilities`.
    """
    data = network.data
    if preprocessing:
        example = torch.zeros(2, 3, data.resize, data.resize, dtype=torch.uint8)
        module: nn.Module = _WithPreprocessing(plain(network))
        reads, gives = "squares", "probabilities"
    else:
        example = torch.zeros(2, 3, data.crop, data.crop)
        module = _NetworkAlone(plain(network))
        reads, gives = "crops", "logits"
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[reads],
            output_names=[gives],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    found = next(one.version for one in model.opset_import if not one.domain)
    if found != opset:  # the exporter only warns
        raise ValueError(
            f"--opset is {opset}, but the network could not be converted from opset {found}; take "
            f"that, or leave --opset out"
        )
    for name, text in metadata(network, card).items():
        model.metadata_props.add(key=name, value=text)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def answers(network: Trained, model: bytes, preprocessing: bool) -> Answer:
    """Probabilities by the graph in onnxruntime, for check_alike."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def answer(squares: Tensor) -> NDArray[np.float32]:
        if preprocessing:
            (found,) = session.run(None, {"squares": squares.byte().numpy()})
            return found
        crops = centre_view(squares, network.data.crop) - network.mean
        (logits,) = session.run(None, {"crops": crops.numpy()})
        return torch.from_numpy(logits).softmax(1).numpy()

    return answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own progress, and its tracebacks where it goes on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
