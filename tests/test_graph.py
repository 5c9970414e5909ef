"""The GPU form of the graph, as far as a machine without a GPU can check it."""

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from pipeline import graph


def serialize(on_gpu):
    """Operators, devices, argument names and types are checked when the graph is serialised."""
    pipeline = Pipeline(batch_size=4, num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        pipeline.set_outputs(graph.crops(iter(()), np.zeros((3, 8, 8), np.float32), graph.Form(8, False, True, on_gpu)))
    return pipeline.serialize()


def test_the_gpu_graph_decodes_resizes_and_normalises_on_the_gpu():
    names = [b"decoders__ImageSlice", b"Resize", b"CropMirrorNormalize"]
    assert all(name in serialize(on_gpu=True) for name in names)
    mixed, gpu = b"\x05mixed", b"\x03gpu"  # device names, behind their length
    assert mixed in serialize(on_gpu=True) and gpu in serialize(on_gpu=True)
    assert mixed not in serialize(on_gpu=False) and gpu not in serialize(on_gpu=False)


def test_a_wrong_argument_would_be_caught(monkeypatch):
    """If this fails, the test above proves nothing."""
    right = fn.resize
    monkeypatch.setattr(fn, "resize", lambda *inputs, **arguments: right(*inputs, **arguments, antialiased=True))
    with pytest.raises(Exception, match="antialiased"):
        serialize(on_gpu=True)


def test_a_wrong_device_would_be_caught(monkeypatch):
    right = fn.io.file.read
    monkeypatch.setattr(fn.io.file, "read", lambda *inputs: right(*inputs, device="gpu"))
    with pytest.raises(Exception, match=r"(?i)gpu"):
        serialize(on_gpu=True)
