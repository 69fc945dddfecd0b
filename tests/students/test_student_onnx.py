"""Each student is one ONNX graph for all batch sizes, lengths and sides of padding."""

import warnings

import onnxruntime
import pytest
import torch
from tiny_students import NETWORKS, PAIR_NETWORKS, make_batch, make_student, run


class Positional(torch.nn.Module):
    """Inputs by position, logits alone as output."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def rows_of(size, length, pairs):
    """Make rows of up to `length` tokens: of several there is one without any."""
    generator = torch.Generator().manual_seed(size * 100 + length)
    rows = []
    for row in range(size):
        count = 0 if size > 1 and row == 1 else max(1, length - 3 * row)
        types = (torch.arange(count) >= count // 2).long() * pairs
        rows.append((torch.randint(1, 50, (count,), generator=generator), types))
    return rows


def export(name, path):
    student = make_student(name)
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if name in PAIR_NETWORKS else [])
    batch = make_batch(rows_of(2, 8, name in PAIR_NETWORKS), width=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of what is traced as a constant, which is tested below
        torch.onnx.export(
            Positional(student, names).eval(),
            tuple(batch[name] for name in names),
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch_size", 1: "length"} for name in names} | {"logits": {0: "batch_size"}},
            opset_version=17,
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return student, names, onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_has_the_logits_of_pytorch_at_every_shape(name, tmp_path):
    student, names, session = export(name, tmp_path / "model.onnx")
    assert [entry.name for entry in session.get_inputs()] == names
    for size, length in ((1, 1), (3, 11), (5, 29)):
        for side in ("right", "left"):
            batch = make_batch(rows_of(size, length, name in PAIR_NETWORKS), side, length + 4)
            expected = run(student, batch).logits
            (logits,) = session.run(None, {name: batch[name].numpy() for name in names})
            torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-5)


def test_the_graph_of_a_bag_of_embeddings_is_small(tmp_path):
    # Each node costs about a microsecond, and the whole text some tens.
    onnx = pytest.importorskip("onnx")
    export("embedding_bag", tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node]
    computing = [operator for operator in operators if operator not in ("Constant", "Identity")]
    assert len(computing) <= 13, computing
    assert not {"ScatterElements", "GatherElements", "CumSum"} & set(computing)
