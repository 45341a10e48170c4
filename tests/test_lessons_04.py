"""Lesson 04: what it builds by hand, run from its own source, against bitsandbytes, peft and the package."""

import ast
from statistics import NormalDist

import bitsandbytes as bnb
import bitsandbytes.functional as reference
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_notebooks import SOURCES, build, cells, check_exercise, exercises

from icft_lite import doctor
from icft_lite.modeling.adapters import delta_svd
from icft_lite.reporting.concepts import nf4

BOOK = build.read(next(path for path in SOURCES if path.stem.startswith("04_")))


@pytest.fixture(scope="module")
def lesson():
    """The names that the lesson defines: its imports, functions, classes and CONSTANTS; of the exercises, `forward`."""
    names = {}
    for cell in cells(BOOK, "code"):
        if "return ..." not in cell.source:
            for node in ast.parse(cell.source).body:
                name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
                kinds = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef
                if isinstance(node, kinds) or len(name) > 1 and name.isupper():
                    exec(ast.unparse(node), names)
    exec(exercises(BOOK)[0][1], names)
    names["LoRALinear"].forward = names["forward"]
    return names


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_levels_are_those_of_bitsandbytes(lesson):
    assert (lesson["NF4"] - reference.get_4bit_type("nf4", device="cpu")).abs().max() < 1e-6
    assert (lesson["DYNAMIC"] - reference.create_dynamic_map()).abs().max() < 1e-6
    assert (lesson["NF4"] == 0).sum() == 1 and lesson["NF4"].abs().max() == 1


def test_the_diagram_shows_the_levels(lesson):
    drawn = torch.tensor(nf4.QUANTILES) / max(nf4.QUANTILES)
    torch.testing.assert_close(drawn, lesson["NF4"])
    texts = [text.get_text() for text in nf4.draw().axes[0].texts]
    assert [text for text in texts if text.isdecimal()][:16] == [str(index) for index in range(16)]
    assert "nearest level: 0.246\nindex 10" in texts
    assert f"{lesson['NF4'][10]:.3f}" == "0.246" and NormalDist().cdf(nf4.QUANTILES[-1]) == pytest.approx(nf4.EDGE)


@pytest.mark.parametrize("block", [32, 64, 256])
@pytest.mark.parametrize("kind", ["normal", "outlier", "zero block", "tiny"])
def test_quantized_bytes_are_those_of_bitsandbytes(lesson, block, kind):
    weight = draw(24, 256)  # blocks must not span rows: the CPU kernel of bitsandbytes 0.50 is wrong for them
    if kind == "outlier":
        weight[3, 5] = -80.0
    if kind == "zero block":
        weight[:4] = 0
    if kind == "tiny":
        weight *= 1e-6
    indices, scales = lesson["quantize"](weight, lesson["NF4"], block)
    packed, state = reference.quantize_4bit(weight, quant_type="nf4", blocksize=block)
    torch.testing.assert_close(scales.flatten(), state.absmax)
    assert (lesson["pack"](indices) != packed.flatten()).float().mean() < 1e-3
    again = lesson["unpack"](packed.flatten()).reshape(-1, block)
    back = lesson["dequantize"](again, scales, lesson["NF4"], weight.shape)
    torch.testing.assert_close(back, reference.dequantize_4bit(packed, state), atol=1e-6, rtol=1e-5)


def test_rows_that_are_not_a_multiple_of_a_block_come_back_as_well(lesson):
    weight = draw(48, 96)
    assert 0.07 < (lesson["NF4Weight"](weight)() - weight).norm() / weight.norm() < 0.11


@pytest.mark.parametrize("rows", [4, 128, 300])  # 8, 256 and 600 scales: less than a group, one, and a rest
def test_double_quantization_is_that_of_bitsandbytes(lesson, rows):
    weight = 0.05 * draw(rows, 128)
    frozen = lesson["NF4Weight"](weight)
    packed, state = reference.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    apart = (frozen.scales[0].flatten()[: len(state.absmax)].int() - state.absmax.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.02
    torch.testing.assert_close(frozen.scales[1].flatten(), state.state2.absmax)
    assert (frozen() - reference.dequantize_4bit(packed, state)).abs().max() < 0.01 * weight.abs().max()
    assert 0.07 < (frozen() - weight).norm() / weight.norm() < 0.11


def test_a_layer_and_its_gradients_are_those_of_peft(lesson):
    weight, x = 0.05 * draw(96, 128), draw(7, 128, seed=1)
    ours = lesson["LoRALinear"](lesson["NF4Weight"](weight), rank=4, alpha=12)
    assert torch.equal(ours(x), x @ ours.frozen().T), "at the start B = 0"

    plain = torch.nn.Sequential()
    plain.up = bnb.nn.Linear4bit(128, 96, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    plain.up.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4", module=plain.up)
    plain.is_loaded_in_4bit = True
    theirs = get_peft_model(plain.to("cpu"), LoraConfig(r=4, lora_alpha=12, target_modules=["up"])).train()
    layer = theirs.base_model.model.up
    assert type(layer).__module__.endswith("bnb") and layer.weight.quant_state.nested
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        ours.B.copy_(0.1 * draw(96, 4, seed=2))
        A.copy_(ours.A)
        B.copy_(ours.B)

    def outcome(function, A, B):
        inputs = x.clone().requires_grad_()
        y = function(inputs)
        return [y, *torch.autograd.grad(y.square().sum(), [inputs, A, B])]

    for one, other in zip(outcome(ours, ours.A, ours.B), outcome(layer, A, B)):
        assert (one - other).norm() < 0.01 * other.norm()


def test_it_is_short(lesson):
    """The title says about sixty lines."""
    names = "nf4_levels quantize dequantize pack unpack dynamic_levels compress".split()
    source = "".join(cell.source + "\n" for cell in cells(BOOK, "code")) + exercises(BOOK)[0][1]
    tree = ast.parse(source)
    nodes = [node for node in tree.body if getattr(node, "name", "") in names]
    nodes += [node for node in tree.body if getattr(node, "name", "") in ("NF4Weight", "FrozenMatmul", "LoRALinear")]
    nodes.append(tree.body[-1])
    code = "\n".join(ast.unparse(node) for node in nodes).splitlines()
    assert len(nodes) == 11 and 50 <= sum(bool(line.strip()) and '"""' not in line for line in code) <= 65


def test_gradient_of_the_frozen_product_is_right_and_saves_nothing(lesson):
    frozen = lesson["NF4Weight"](draw(8, 64))
    weight = frozen().double()
    x = draw(3, 64).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lesson["FrozenMatmul"].apply(x, lambda: weight), x)
    assert lesson["saved_bytes"](lambda x: lesson["FrozenMatmul"].apply(x, lambda: weight), x) == 0


def test_the_budget_is_the_doctors(lesson):
    for shape in (*lesson["SHAPES"].values(), *doctor.MODELS.values()):
        by_package = doctor.estimate(shape, value_bytes=2) - 0.7 * doctor.GIB
        assert sum(lesson["budget"](*shape).values()) == pytest.approx(by_package, rel=0.02)


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_the_share_is_what_low_rank_approximates(lesson, rank):
    matrix = draw(30, 20)
    B, A = lesson["low_rank"](matrix, rank)
    left = (matrix - B @ A).square().sum() / matrix.square().sum()
    assert lesson["share"](matrix, rank) == pytest.approx(1 - float(left), abs=1e-5)


def test_low_rank_is_the_packages(lesson):
    pairs = [(0.3, draw(4, 40), draw(60, 4, seed=1)), (0.7, draw(4, 40, seed=2), draw(60, 4, seed=3))]
    change = sum(weight * 2 * B @ A for weight, A, B in pairs)
    A, B, residual = delta_svd(pairs, rank=3, scale=2.0)
    ours_B, ours_A = lesson["low_rank"](change, 3)
    torch.testing.assert_close(ours_B @ ours_A, 2.0 * B @ A, atol=1e-4, rtol=1e-4)
    assert float((change - ours_B @ ours_A).norm() / change.norm()) == pytest.approx(residual, abs=1e-5)


def test_solutions_are_accepted_and_wrong_answers_rejected(lesson):
    wrong = [
        [
            "def forward(self, x): return FrozenMatmul.apply(x, self.frozen)",
            "def forward(self, x): return FrozenMatmul.apply(x, self.frozen) + (x @ self.A.T) @ self.B.T",
            "def forward(self, x): return self.scale * (FrozenMatmul.apply(x, self.frozen) + x @ self.A.T @ self.B.T)",
            "def forward(s, x): return (FrozenMatmul.apply(x, s.frozen) + s.scale * x @ s.A.T @ s.B.T).T",
            "def forward(self, x): return self.scale * (x @ self.A.T) @ self.B.T",
            "def forward(self, x): return F.linear(x, self.frozen()) + self.scale * (x @ self.A.T) @ self.B.T",
            "def forward(self, x): return F.linear(x, self.frozen() + self.scale * self.B @ self.A)",
            "def forward(self, x):\n    A = self.A.detach()\n"
            "    return FrozenMatmul.apply(x, self.frozen) + self.scale * (x @ A.T) @ self.B.T",
        ],
        [
            "def bits(b, g): return 4 + 8 / b",
            "def bits(b, g): return 4 + 8 / b + 32 / g",
            "def bits(b, g): return 4.126953125",
        ],
        [
            "def head_start(w, r): return torch.zeros(len(w), r), torch.zeros(r, w.shape[1])",
            "def head_start(w, r): return low_rank(w, r)",
            "def head_start(w, r): return low_rank(NF4Weight(w)() - w, r)",
            "def head_start(w, r): return low_rank(w - NF4Weight(w)(), 2 * r)",
        ],
    ]
    for number in range(len(wrong)):
        check_exercise(BOOK, number, wrong, lesson)
