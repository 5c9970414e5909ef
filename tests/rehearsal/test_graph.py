"""The DALI graph for GPUs, as far as it can be checked without one: what DALI is told."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from pipeline import graph


def _message(pool, name, fields):
    """Define a message type with the DALI fields that are read here: name -> (number, type)."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="dali", syntax="proto2")
    file.dependency.extend(
        f"{kind}.proto" for _, kind in fields.values() if kind[0].isupper() and kind != name
    )
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        one = message.field.add(name=field, number=number, label=kinds.LABEL_REPEATED)
        one.type = (
            kinds.TYPE_MESSAGE if kind[0].isupper() else getattr(kinds, f"TYPE_{kind.upper()}")
        )
        if kind[0].isupper():
            one.type_name = f".dali.{kind}"
    pool.Add(file)


def _pipeline_definition():
    """The message type of DALI's serialised pipelines, inferred from their bytes."""
    pool = descriptor_pool.DescriptorPool()
    _message(
        pool, "Edge", {"name": (1, "string"), "device": (2, "string"), "argument": (4, "string")}
    )
    values = {
        "floats": (3, "float"),
        "ints": (4, "int64"),
        "strings": (5, "string"),
        "bools": (6, "bool"),
    }
    _message(pool, "Argument", {"name": (1, "string"), **values, "elements": (7, "Argument")})
    edges = {"input": (2, "Edge"), "output": (3, "Edge")}
    _message(pool, "Operator", {"name": (1, "string"), **edges, "args": (4, "Argument")})
    _message(pool, "Pipeline", {"operators": (5, "Operator")})
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("dali.Pipeline"))


_Definition = _pipeline_definition()


def _value(argument):
    if argument.elements:
        return [_value(element) for element in argument.elements]
    return next(iter([*argument.floats, *argument.ints, *argument.strings, *argument.bools]), None)


def operators(**form):
    """The arguments of each operator, by the operator's name.

    An argument is a value, or the name of the operator that it comes from.
    """
    found, makers = {}, {}
    for operator in _Definition.FromString(serialize(**form)).operators:
        name = operator.name[0]
        arguments = {argument.name[0]: _value(argument) for argument in operator.args}
        arguments |= {
            edge.argument[0]: makers[edge.name[0]] for edge in operator.input if edge.argument
        }
        arguments["inputs"] = [makers[edge.name[0]] for edge in operator.input if not edge.argument]
        makers[operator.output[0].name[0]] = arguments.get("expression_desc", name)
        found.setdefault(arguments.get("expression_desc", name), arguments)
    return found


def has(operator, **expected):
    return {name: operator.get(name) for name in expected} == expected


BOTH = [False, True]


@pytest.mark.parametrize("on_gpu", BOTH)
@pytest.mark.parametrize("in_archives", BOTH)
@pytest.mark.parametrize("resample", BOTH)
@pytest.mark.parametrize("has_gain", BOTH)
def test_every_argument_that_decides_pixels_has_the_right_value(
    on_gpu, in_archives, resample, has_gain
):
    """Between GPU and CPU, only the device differs."""
    graph_of = operators(
        on_gpu=on_gpu, in_archives=in_archives, resample=resample, has_gain=has_gain
    )
    device, outside = ("gpu" if on_gpu else "cpu"), "ExternalSource"
    decoder = graph_of["decoders__ImageSlice"]
    assert decoder["inputs"] == [outside if in_archives else "io__file__Read"]
    assert has(
        decoder, device="mixed" if on_gpu else "cpu", output_type=int(types.RGB), axis_names="HW"
    )
    assert has(decoder, start=outside, end=outside, jpeg_fancy_upsampling=True, hw_decoder_load=0.0)
    # Left at their defaults: upright by EXIF, exact inverse cosine transform, no cache, 8 bits
    assert decoder.keys().isdisjoint({"adjust_orientation", "use_fast_idct", "cache_size", "dtype"})
    if resample:
        resize = graph_of["Resize"]
        assert has(
            resize, device=device, inputs=["decoders__ImageSlice"], size=[8.0, 8.0], antialias=True
        )
        assert has(resize, interp_type=int(types.INTERP_LINEAR), roi_start=outside, roi_end=outside)
        assert resize.keys().isdisjoint(
            {"roi_relative", "mode", "subpixel_scale", "resize_shorter", "max_size", "dtype"}
        )
    normalise = graph_of["CropMirrorNormalize"]
    assert has(
        normalise,
        device=device,
        mean="minus(&0)",
        std=[1.0, 1.0, 1.0],
        dtype=int(types.FLOAT),
        output_layout="CHW",
    )
    assert has(
        normalise,
        inputs=["Resize" if resample else "decoders__ImageSlice"],
        mirror=0 if resample else outside,
    )
    assert normalise.keys().isdisjoint({"scale", "shift", "crop", "fill_values", "pad_output"})
    assert has(graph_of["sub(&0 &1)"], device=device, inputs=["CropMirrorNormalize", "Constant"])
    assert has(graph_of["Constant"], device=device, shape=[3, 8, 8], fdata=MEAN.ravel().tolist())
    assert ("mul(&0 &1)" in graph_of) == has_gain


@pytest.mark.parametrize(
    "argument, wrong", [("antialias", False), ("interp_type", types.INTERP_CUBIC)]
)
def test_a_wrong_value_is_detected(argument, wrong, monkeypatch):
    right = fn.resize
    monkeypatch.setattr(
        fn, "resize", lambda *inputs, **arguments: right(*inputs, **arguments | {argument: wrong})
    )
    with pytest.raises(AssertionError):
        test_every_argument_that_decides_pixels_has_the_right_value(True, False, True, False)


def test_another_share_for_the_jpeg_engine_is_detected(monkeypatch):
    monkeypatch.setattr(graph, "HW_DECODER_LOAD", 0.65)
    with pytest.raises(AssertionError):
        test_every_argument_that_decides_pixels_has_the_right_value(True, False, True, False)


MEAN = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)


def serialize(on_gpu, in_archives=False, resample=True, has_gain=False):
    """Serialise the graph; DALI then checks operators, devices, argument names and types."""
    pipeline = Pipeline(batch_size=4, num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        form = graph.GraphOptions(8, in_archives, resample, has_gain, on_gpu)
        pipeline.set_outputs(graph.crops(iter(()), MEAN, form))
    return pipeline.serialize()


@pytest.mark.parametrize("in_archives", [False, True])
@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("has_gain", [False, True])
def test_the_gpu_graph_decodes_resizes_and_normalises_on_the_gpu(in_archives, resample, has_gain):
    on_gpu = serialize(True, in_archives, resample, has_gain)
    assert b"decoders__ImageSlice" in on_gpu and b"CropMirrorNormalize" in on_gpu
    assert (b"Resize" in on_gpu) == resample and (b"io__file__Read" in on_gpu) == (not in_archives)
    mixed, gpu = b"\x05mixed", b"\x03gpu"  # device names, each after its length
    assert mixed in on_gpu and gpu in on_gpu
    on_cpu = serialize(False, in_archives, resample, has_gain)
    assert mixed not in on_cpu and gpu not in on_cpu


def test_an_unknown_argument_is_detected(monkeypatch):
    """If this fails, the test above proves nothing."""
    right = fn.resize
    monkeypatch.setattr(
        fn, "resize", lambda *inputs, **arguments: right(*inputs, **arguments, antialiased=True)
    )
    with pytest.raises(Exception, match="antialiased"):
        serialize(on_gpu=True)


def test_a_wrong_device_is_detected(monkeypatch):
    right = fn.io.file.read
    monkeypatch.setattr(fn.io.file, "read", lambda *inputs: right(*inputs, device="gpu"))
    with pytest.raises(Exception, match=r"(?i)gpu"):
        serialize(on_gpu=True)
