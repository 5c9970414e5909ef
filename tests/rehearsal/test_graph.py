"""The DALI graph for GPUs, as far as it can be checked without one: what DALI is told."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from alexnet_dali.pipeline import graph
from alexnet_dali.pipeline.reading.requests import Requests
from tests.feeding import plain, training_plan


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


def operators(serialized):
    """The arguments of each operator, by the operator's name.

    An argument is a value, or the name of the operator that it comes from.
    """
    found, makers = {}, {}
    for operator in _Definition.FromString(serialized).operators:
        name = operator.name[0]
        arguments = {argument.name[0]: _value(argument) for argument in operator.args}
        arguments |= {
            edge.argument[0]: makers[edge.name[0]] for edge in operator.input if edge.argument
        }
        arguments["inputs"] = [makers[edge.name[0]] for edge in operator.input if not edge.argument]
        for made in operator.output:
            makers[made.name[0]] = arguments.get("expression_desc", name)
        found.setdefault(arguments.get("expression_desc", name), arguments)
    return found


def has(operator, **expected):
    return {name: operator.get(name) for name in expected} == expected


WHERE = {"gpu": (0, True), "cpu for gpu": (0, False), "cpu": (None, False)}
"""The GPU's number, and whether it decodes."""

BOTH = [False, True]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("resample", BOTH)
@pytest.mark.parametrize("has_gain", BOTH)
def test_every_argument_that_decides_pixels_has_the_right_value(where, resample, has_gain):
    """Between GPU and CPU, only the device differs."""
    graph_of = operators(serialize(where, resample=resample, has_gain=has_gain))
    device_id, decodes = WHERE[where]
    device, outside = ("cpu" if device_id is None else "gpu"), "ExternalSource"
    decoder = graph_of["decoders__ImageSlice"]
    assert decoder["inputs"] == [outside]
    assert has(
        decoder, device="mixed" if decodes else "cpu", output_type=int(types.RGB), axis_names="HW"
    )
    end, shape = (outside, None) if resample else (None, [8, 8])
    assert has(decoder, start=outside, end=end, shape=shape)
    assert has(decoder, jpeg_fancy_upsampling=True, hw_decoder_load=0.0)
    # Left at their defaults: upright by EXIF, exact inverse cosine transform, no cache, 8 bits
    assert decoder.keys().isdisjoint({"adjust_orientation", "use_fast_idct", "cache_size", "dtype"})
    pixels = "decoders__ImageSlice"
    if resample:
        resize = graph_of["Resize"]
        assert has(resize, device=device, inputs=[pixels], size=[8.0, 8.0], antialias=True)
        assert has(resize, interp_type=int(types.INTERP_LINEAR), roi_start=outside, roi_end=outside)
        assert resize.keys().isdisjoint(
            {"roi_relative", "mode", "subpixel_scale", "resize_shorter", "max_size", "dtype"}
        )
    normalise = graph_of["CropMirrorNormalize"]
    assert has(
        normalise,
        device=device,
        mean=outside,
        std=[1.0, 1.0, 1.0],
        dtype=int(types.FLOAT),
        output_layout="CHW",
    )
    assert has(
        normalise, inputs=["Resize" if resample else pixels], mirror=0 if resample else outside
    )
    assert normalise.keys().isdisjoint({"scale", "shift", "crop", "fill_values", "pad_output"})
    assert has(graph_of["sub(&0 &1)"], device=device, inputs=["CropMirrorNormalize", "Constant"])
    assert has(graph_of["Constant"], device=device, shape=[3, 8, 8], fdata=MEAN.ravel().tolist())
    assert ("mul(&0 &1)" in graph_of) == has_gain
    if has_gain:
        assert has(graph_of["mul(&0 &1)"], device=device)


def reader(in_archives):
    """The graph that reads, as DALI is told."""
    return graph.build_reader(in_archives, 4, 2).serialize()


def test_files_are_read_without_mapping_them_and_what_is_looked_at_is_decoded():
    """A mapped file that is cut short would end the process."""
    for in_archives, source in ((False, "io__file__Read"), (True, "Reinterpret")):
        graph_of = operators(reader(in_archives))
        assert has(graph_of["PeekImageShape"], inputs=[source], device="cpu")
        # Left at its default: as it is when it is upright by EXIF
        assert graph_of["PeekImageShape"].keys().isdisjoint({"adjust_orientation", "dtype"})
        assert ("io__file__Read" in graph_of) != in_archives
    read = operators(reader(False))["io__file__Read"]
    assert has(read, dont_use_mmap=True, inputs=["ExternalSource"], device="cpu")
    cut = operators(reader(True))["_TensorSubscript"]
    assert has(cut, hi_0="ExternalSource", lo_0=None, step_0=None, inputs=["Reinterpret"])


def test_mapping_files_is_detected(monkeypatch):
    right = fn.io.file.read
    monkeypatch.setattr(fn.io.file, "read", lambda *inputs, **options: right(*inputs))
    with pytest.raises(AssertionError):
        test_files_are_read_without_mapping_them_and_what_is_looked_at_is_decoded()


@pytest.mark.parametrize(
    "argument, wrong", [("antialias", False), ("interp_type", types.INTERP_CUBIC)]
)
def test_a_wrong_value_is_detected(argument, wrong, monkeypatch):
    right = fn.resize
    monkeypatch.setattr(
        fn, "resize", lambda *inputs, **arguments: right(*inputs, **arguments | {argument: wrong})
    )
    with pytest.raises(AssertionError):
        test_every_argument_that_decides_pixels_has_the_right_value("gpu", True, False)


def test_another_share_for_the_jpeg_engine_is_detected(monkeypatch):
    monkeypatch.setattr(graph, "HW_DECODER_LOAD", 0.65)
    with pytest.raises(AssertionError):
        test_every_argument_that_decides_pixels_has_the_right_value("gpu", True, False)


MEAN = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)


def serialize(where, resample=True, has_gain=False):
    """Serialise the graph; DALI then checks operators, devices, argument names and types."""
    device_id, decodes = WHERE[where]
    options = graph.GraphOptions(8, resample, has_gain, device_id, decodes)
    pipeline = Pipeline(batch_size=4, num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        names = graph.inputs(options)
        nodes = fn.external_source(iter(()), num_outputs=len(names), no_copy=True)
        asked = dict(zip(names, nodes, strict=True))
        pipeline.set_outputs(graph.augment(graph.decode(asked, options), asked, MEAN, options))
    return pipeline.serialize()


@pytest.mark.parametrize("resample", BOTH)
@pytest.mark.parametrize("has_gain", BOTH)
def test_the_gpu_graph_decodes_resizes_and_normalises_on_the_gpu(resample, has_gain):
    on_gpu, on_cpu, between = (
        serialize(where, resample, has_gain) for where in ("gpu", "cpu", "cpu for gpu")
    )
    assert b"decoders__ImageSlice" in on_gpu and b"CropMirrorNormalize" in on_gpu
    assert (b"Resize" in on_gpu) == resample
    mixed, gpu = b"\x05mixed", b"\x03gpu"  # device names, each after its length
    assert mixed in on_gpu and gpu in on_gpu
    assert mixed not in on_cpu and gpu not in on_cpu
    assert gpu in between and operators(between)["decoders__ImageSlice"]["device"] == "cpu"


@pytest.mark.parametrize("resample", BOTH)
@pytest.mark.parametrize("has_gain", BOTH)
def test_requests_bring_what_the_graph_asks_for(resample, has_gain, dataset):
    """And one row of them is a request, too."""
    plan = training_plan(dataset.train, num_steps=1)
    options = graph.GraphOptions(80, True, has_gain, None)
    requests = Requests(dataset.train, plan, plain(80), options)
    (step,), options = requests.steps(range(1)), options._replace(resample=resample)
    assert set(graph.inputs(options)) <= step.request.keys()
    assert len(graph.tensors(step.request, options)) == len(graph.inputs(options))
    row = graph.row_of(step.request, 7)
    np.testing.assert_array_equal(row["mean"], step.request["mean"][7:8])
    path = dataset.train.path(step.samples.indices[7])
    assert np.asarray(row["encoded"][0]).tobytes() == Path(path).read_bytes()
    requests.close()


def test_an_unknown_argument_is_detected(monkeypatch):
    """If this fails, the test above proves nothing."""
    right = fn.resize
    monkeypatch.setattr(
        fn, "resize", lambda *inputs, **arguments: right(*inputs, **arguments, antialiased=True)
    )
    with pytest.raises(Exception, match="antialiased"):
        serialize("gpu")


def test_a_wrong_device_is_detected(monkeypatch):
    right = fn.crop_mirror_normalize
    monkeypatch.setattr(
        fn,
        "crop_mirror_normalize",
        lambda *inputs, **arguments: right(*inputs, **arguments, device="cpu"),
    )
    with pytest.raises(Exception, match=r"(?i)gpu"):
        serialize("gpu")
