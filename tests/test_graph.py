"""The GPU form of the graph, as far as a machine without a GPU can check it."""

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from pipeline import graph


def serialize(on_gpu, in_archives=False, resample=True, has_gain=False):
    """Operators, devices, argument names and types are checked when the graph is serialised."""
    pipeline = Pipeline(batch_size=4, num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        form = graph.Form(8, in_archives, resample, has_gain, on_gpu)
        pipeline.set_outputs(graph.crops(iter(()), np.zeros((3, 8, 8), np.float32), form))
    return pipeline.serialize()


@pytest.mark.parametrize("in_archives", [False, True])
@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("has_gain", [False, True])
def test_the_gpu_graph_decodes_resizes_and_normalises_on_the_gpu(in_archives, resample, has_gain):
    on_gpu = serialize(True, in_archives, resample, has_gain)
    assert b"decoders__ImageSlice" in on_gpu and b"CropMirrorNormalize" in on_gpu
    assert (b"Resize" in on_gpu) == resample and (b"io__file__Read" in on_gpu) == (not in_archives)
    mixed, gpu = b"\x05mixed", b"\x03gpu"  # device names, behind their length
    assert mixed in on_gpu and gpu in on_gpu
    on_cpu = serialize(False, in_archives, resample, has_gain)
    assert mixed not in on_cpu and gpu not in on_cpu


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
