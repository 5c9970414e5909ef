"""The part of Caffe's messages that says what a network computes (src/caffe/proto/caffe.proto).

`NetParameter` is a .caffemodel, `BlobProto` a .binaryproto.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELDS: dict[str, dict[str, tuple[int, str, Any]]] = {
    "BlobShape": {"dim": (1, "repeated int64", None)},
    "BlobProto": {
        "num": (1, "int32", 0),
        "channels": (2, "int32", 0),
        "height": (3, "int32", 0),
        "width": (4, "int32", 0),
        # Packed numbers have the form of bytes. As such they are not taken apart one by one.
        "data": (5, "repeated bytes", None),
        "shape": (7, "BlobShape", None),
        "double_data": (8, "repeated bytes", None),
    },
    "ConvolutionParameter": {
        "pad": (3, "repeated uint32", None),
        "group": (5, "uint32", 1),
        "stride": (6, "repeated uint32", None),
        "pad_h": (9, "uint32", 0),
        "pad_w": (10, "uint32", 0),
        "stride_h": (13, "uint32", 0),
        "stride_w": (14, "uint32", 0),
        "dilation": (18, "repeated uint32", None),
    },
    "LRNParameter": {
        "local_size": (1, "uint32", 5),
        "alpha": (2, "float", 1.0),
        "beta": (3, "float", 0.75),
        "norm_region": (4, "int32", 0),
        "k": (5, "float", 1.0),
    },
    "PoolingParameter": {
        "pool": (1, "int32", 0),
        "kernel_size": (2, "uint32", 0),
        "stride": (3, "uint32", 1),
        "pad": (4, "uint32", 0),
    },
    "ReLUParameter": {"negative_slope": (1, "float", 0.0)},
    "LayerParameter": {
        "name": (1, "string", ""),
        "type": (2, "string", ""),
        "bottom": (3, "repeated string", None),
        "top": (4, "repeated string", None),
        "blobs": (7, "repeated BlobProto", None),
        "convolution_param": (106, "ConvolutionParameter", None),
        "lrn_param": (118, "LRNParameter", None),
        "pooling_param": (121, "PoolingParameter", None),
        "relu_param": (123, "ReLUParameter", None),
    },
    "V1LayerParameter": {
        "bottom": (2, "repeated string", None),
        "top": (3, "repeated string", None),
        "name": (4, "string", ""),
        "type": (5, "int32", 0),
        "blobs": (6, "repeated BlobProto", None),
        "convolution_param": (10, "ConvolutionParameter", None),
        "lrn_param": (18, "LRNParameter", None),
        "pooling_param": (19, "PoolingParameter", None),
        "relu_param": (30, "ReLUParameter", None),
    },
    "NetParameter": {
        "name": (1, "string", ""),
        "layers": (2, "repeated V1LayerParameter", None),
        "layer": (100, "repeated LayerParameter", None),
    },
}
"""Fields of each message: number, kind, and default where it has one."""


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="caffe_networks.proto", package="caffe", syntax="proto2"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, words, default) in fields.items():
            kind = words.removeprefix("repeated ")
            repeated = kinds.LABEL_OPTIONAL if kind == words else kinds.LABEL_REPEATED
            one = described.field.add(name=name, number=number, label=repeated)
            if kind in _FIELDS:
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                one.type = getattr(kinds, f"TYPE_{kind.upper()}")
            if default is not None:
                one.default_value = str(default)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in _FIELDS
    }


_CLASSES = _messages()
NetParameter, BlobProto = _CLASSES["NetParameter"], _CLASSES["BlobProto"]
