# SPDX-License-Identifier: Apache-2.0
"""Writes a trained encoder as ONNX: the network of `bert` operator by operator, then its weights as 8-bit integers.

The graph is written by hand, so that what ships is plain to read and no tracer decides about it. Weights of matrix
products are quantised per column, word embeddings per tensor; what flows between is quantised as it comes (dynamic
quantisation). Imported late: onnx and onnxruntime come with training.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

__all__ = ["build", "quantised"]

_OPSET = 20
"""LayerNormalization and Gelu are operators from here on."""
_IR = 9
_EPSILON = 1e-12
_FAR = -10_000.0
"""Added to attention scores of padding."""


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def whole(self, *numbers: int) -> str:
        return self.constant("i" + "_".join(map(str, numbers)).replace("-", "m"), np.array(numbers, np.int64))

    def real(self, number: float) -> str:
        return self.constant(f"f{number}", np.array(number, np.float32))

    def add(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:  # noqa: ANN401  operators differ
        out = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", **attributes))
        return out

    def linear(self, name: str, x: str, weights: Mapping[str, np.ndarray], out: str = "") -> str:
        product = self.add("MatMul", x, self.constant(f"{name}.weight", weights[f"{name}.weight"].T))
        return self.add("Add", product, self.constant(f"{name}.bias", weights[f"{name}.bias"]), out=out)

    def norm(self, name: str, x: str, weights: Mapping[str, np.ndarray]) -> str:
        scale = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPSILON)


def build(weights: Mapping[str, np.ndarray], heads: int) -> onnx.ModelProto:
    """The network as ONNX.

    Args:
        weights: State of a `bert.Bert`, float32 by name.
        heads: Attention heads; the width of the model is a multiple of it.

    Returns:
        A model with inputs `ids` and `attention`, int64 (batch, length), and output `logits`, float32 (batch, classes).
    """
    graph = _Graph()
    width = weights["norm.weight"].shape[0]
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    embedded = graph.add("Gather", graph.constant("words.weight", weights["words.weight"]), "ids")
    length = graph.add("Gather", graph.add("Shape", "ids"), graph.whole(1))
    # All texts are of one kind: that row is added to the places once and for all.
    places = graph.constant("places.weight", weights["places.weight"] + weights["kind"])
    x = graph.add("Add", embedded, graph.add("Slice", places, graph.whole(0), length, graph.whole(0)))
    x = graph.norm("norm", x, weights)
    there = graph.add("Cast", "attention", to=TensorProto.FLOAT)
    gone = graph.add("Mul", graph.add("Sub", graph.real(1.0), there), graph.real(_FAR))
    mask = graph.add("Unsqueeze", gone, graph.whole(1, 2))
    for number in range(layers):
        x = _layer(graph, f"layers.{number}.", x, mask, heads, width, weights)
    column = graph.add("Unsqueeze", there, graph.whole(2))
    total = graph.add("ReduceSum", graph.add("Mul", x, column), graph.whole(1), keepdims=0)
    size = graph.add("Max", graph.add("ReduceSum", column, graph.whole(1), keepdims=0), graph.real(1.0))
    mean = graph.add("Div", total, size)
    greatest = graph.add(
        "ReduceMax", graph.add("Add", x, graph.add("Unsqueeze", gone, graph.whole(2))), graph.whole(1), keepdims=0
    )
    graph.linear("head", graph.add("Concat", mean, greatest, axis=1), weights, out="logits")
    shape = ["batch", "length"]
    model = helper.make_graph(
        graph.nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "attention")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weights["head.bias"].shape[0]])],
        list(graph.constants.values()),
    )
    made = helper.make_model(model, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(made)
    return made


def _layer(
    graph: _Graph, name: str, x: str, mask: str, heads: int, width: int, weights: Mapping[str, np.ndarray]
) -> str:
    size = width // heads
    joined = graph.linear(f"{name}qkv", x, weights)
    parts = graph.add("Reshape", joined, graph.whole(0, 0, 3, heads, size))
    turned = graph.add("Transpose", parts, perm=[2, 0, 3, 1, 4])
    query, key, value = (
        graph.add(
            "Squeeze", graph.add("Slice", turned, graph.whole(at), graph.whole(at + 1), graph.whole(0)), graph.whole(0)
        )
        for at in range(3)
    )
    products = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    scores = graph.add("Add", graph.add("Mul", products, graph.real(size**-0.5)), mask)
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    joined = graph.add("Reshape", graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), graph.whole(0, 0, width))
    x = graph.norm(f"{name}norm1", graph.add("Add", x, graph.linear(f"{name}out", joined, weights)), weights)
    up = graph.linear(f"{name}up", x, weights)
    active = graph.add("Gelu", up)
    return graph.norm(f"{name}norm2", graph.add("Add", x, graph.linear(f"{name}down", active, weights)), weights)


def quantised(model: onnx.ModelProto) -> bytes:
    """The model with 8-bit weights."""
    with tempfile.TemporaryDirectory(prefix="shieldwall-onnx-") as scratch:
        whole, small = Path(scratch) / "whole.onnx", Path(scratch) / "small.onnx"
        onnx.save(model, whole)
        # The head is small and decides: it stays as it is.
        head = [node.name for node in model.graph.node if "head.weight" in node.input]
        quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=head)
        return small.read_bytes()
