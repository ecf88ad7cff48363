# SPDX-License-Identifier: Apache-2.0
"""The written graph against the same network in plain numpy, one number after the other, with small random weights."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from shieldwall.lab.onnx_graph import build, quantised

VOCABULARY, PLACES, WIDTH, INNER, HEADS, CLASSES = 60, 24, 32, 48, 4, 5
Weights = dict[str, np.ndarray]


def random_weights(layers: int = 2, seed: int = 1) -> Weights:
    """State of a small network, by the names of `bert.Bert`."""
    chance = np.random.default_rng(seed)

    def real(*shape: int, size: float = 0.5) -> np.ndarray:
        return (size * chance.normal(size=shape)).astype(np.float32)

    made = {
        "words.weight": real(VOCABULARY, WIDTH),
        "places.weight": real(PLACES, WIDTH),
        "kind": real(WIDTH),
        "head.weight": real(CLASSES, 2 * WIDTH),
        "head.bias": real(CLASSES),
    }
    norms, products = ["norm"], {}
    for number in range(layers):
        name = f"layers.{number}."
        norms += [f"{name}norm1", f"{name}norm2"]
        products |= {
            f"{name}qkv": (3 * WIDTH, WIDTH),
            f"{name}out": (WIDTH, WIDTH),
            f"{name}up": (INNER, WIDTH),
            f"{name}down": (WIDTH, INNER),
        }
    for name in norms:
        made |= {f"{name}.weight": 1 + real(WIDTH, size=0.1), f"{name}.bias": real(WIDTH, size=0.1)}
    for name, shape in products.items():
        made |= {f"{name}.weight": real(*shape, size=0.3), f"{name}.bias": real(shape[0], size=0.1)}
    return made


def plain_logits(weights: Weights, ids: list[int]) -> np.ndarray:
    """What the network says of one text without padding: token by token, head by head, in 64 bits."""
    w = {name: value.astype(float) for name, value in weights.items()}

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / math.sqrt(x.var() + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])

    states = [
        norm("norm", w["words.weight"][piece] + w["places.weight"][at] + w["kind"]) for at, piece in enumerate(ids)
    ]
    size = WIDTH // HEADS
    for number in range(sum(name.endswith(".qkv.bias") for name in w)):
        name = f"layers.{number}."
        joined = [linear(f"{name}qkv", x).reshape(3, HEADS, size) for x in states]
        new = []
        for x, (query, _, _) in zip(states, joined, strict=True):
            mixed = np.zeros((HEADS, size))
            for head in range(HEADS):
                scores = np.array([query[head] @ key[head] / math.sqrt(size) for _, key, _ in joined])
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                mixed[head] = sum(share * value[head] for share, (_, _, value) in zip(shares, joined, strict=True))
            x1 = norm(f"{name}norm1", x + linear(f"{name}out", mixed.reshape(WIDTH)))
            new.append(norm(f"{name}norm2", x1 + linear(f"{name}down", gelu(linear(f"{name}up", x1)))))
        states = new
    return linear("head", np.concatenate((np.mean(states, axis=0), np.max(states, axis=0))))


def run(model: bytes, texts: list[list[int]], width: int = 0) -> np.ndarray:
    """What onnxruntime says of texts in one batch, padded to the longest or to a width."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    width = max(width, *map(len, texts))
    ids, attention = np.zeros((2, len(texts), width), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], attention[row, : len(text)] = text, 1
    logits: np.ndarray = session.run(["logits"], {"ids": ids, "attention": attention})[0]
    return logits


def texts(count: int, seed: int = 2) -> list[list[int]]:
    """Of all lengths, from one piece to as many as there are places; the padding's number stands in them, too."""
    chance = np.random.default_rng(seed)
    lengths = [1, PLACES, *chance.integers(1, PLACES + 1, count - 2)]
    return [chance.integers(0, VOCABULARY, length).tolist() for length in lengths]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_graph_is_the_network(layers: int) -> None:
    """All classes of texts of all lengths, to a ten thousandth."""
    weights = random_weights(layers, seed=layers)
    some = texts(12)

    found = run(build(weights, HEADS).SerializeToString(), some)

    expected = np.array([plain_logits(weights, text) for text in some])
    assert found.dtype == np.float32
    assert np.ptp(expected, axis=0).min() > 0.1
    assert np.abs(found - expected).max() < 1e-4


def test_every_weight_has_a_say() -> None:
    """A weight that the graph left out, or took from another place, would be the same whatever it is."""
    weights = random_weights()
    some = texts(4)
    before = run(build(weights, HEADS).SerializeToString(), some)

    for name, value in weights.items():
        chance = np.random.default_rng(3)
        changed = weights | {name: value + chance.normal(size=value.shape).astype(np.float32)}
        found = run(build(changed, HEADS).SerializeToString(), some)

        # The same shift of all keys changes no share of attention; the rest of that bias does.
        assert np.abs(found - before).max() > 1e-3, name


def test_padding_does_not_change_a_row() -> None:
    """Nor do the other rows of the batch: alone, with others, and with room to spare it is the same."""
    model = build(random_weights(), HEADS).SerializeToString()
    some = texts(9)

    alone = np.concatenate([run(model, [text]) for text in some])

    assert np.abs(run(model, some) - alone).max() < 1e-5
    assert np.abs(run(model, some[2:5], width=PLACES) - alone[2:5]).max() < 1e-5


def test_nothing_but_padding_is_still_a_number() -> None:
    """No division by nothing."""
    logits = run(build(random_weights(), HEADS).SerializeToString(), [[], [5, 6]])

    assert np.isfinite(logits).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_quantised_model_stays_near(seed: int) -> None:
    """Within a tenth of what lies between texts, and the same words for in- and outputs."""
    model = build(random_weights(seed=seed), HEADS)
    some = texts(40)
    whole = np.concatenate([run(model.SerializeToString(), [text]) for text in some])

    small = quantised(model)
    found = np.concatenate([run(small, [text]) for text in some])

    assert np.abs(found - whole).max() > 0
    assert np.sqrt(np.mean((found - whole) ** 2)) < 0.1 * whole.std(axis=0).mean()
    read = onnx.load_model_from_string(small)
    assert [each.name for each in read.graph.input] == ["ids", "attention"]
    assert [each.name for each in read.graph.output] == ["logits"]


def test_what_is_large_is_stored_in_8_bits_and_the_head_is_not() -> None:
    """Word embeddings and products of the layers; the head decides, and is small."""
    model = onnx.load_model_from_string(quantised(build(random_weights(), HEADS)))
    tables = [each for each in model.graph.initializer if len(each.dims) == 2]

    whole = {each.name for each in tables if each.data_type == onnx.TensorProto.FLOAT}
    assert whole == {"head.weight", "places.weight"}
    small = [each for each in tables if each.data_type in {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}]
    assert sorted(tuple(each.dims) for each in small) == sorted(
        [(VOCABULARY, WIDTH), *[(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, INNER), (INNER, WIDTH)] * 2]
    )


def test_the_same_weights_give_the_same_model() -> None:
    """To the last byte; other weights give another one."""
    assert quantised(build(random_weights(), HEADS)) == quantised(build(random_weights(), HEADS))
    assert quantised(build(random_weights(seed=9), HEADS)) != quantised(build(random_weights(), HEADS))
