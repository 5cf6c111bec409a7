"""What the package is as a package: quick to import, without torch, with stubs that match, and polite to AutoAWQ."""
import ast
import pathlib
import shutil
import subprocess
import sys

import pytest

import awq

HERE = pathlib.Path(awq.__file__).parent


def test_importing_loads_neither_torch_nor_transformers_nor_numpy():
    code = ("import sys, awq; from awq import AutoAWQForCausalLM, AutoTokenizer; "
            "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_stub_names_what_the_module_has():
    tree = ast.parse((HERE / "_core.pyi").read_text())
    from awq import _core

    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            assert hasattr(_core, node.target.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert hasattr(_core, node.name), node.name
            for member in getattr(node, "body", []):
                if isinstance(node, ast.ClassDef) and isinstance(member, ast.FunctionDef):
                    assert hasattr(getattr(_core, node.name), member.name), (node.name, member.name)
    stubbed = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))} | {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)}
    assert {n for n in dir(_core) if not n.startswith("_")} <= stubbed


def test_everything_public_has_a_docstring():
    for name in awq.__all__:
        assert getattr(awq, name).__doc__, name
    for method in ("from_pretrained", "from_quantized"):
        assert getattr(awq.AutoAWQForCausalLM, method).__doc__


def test_autoawq_in_the_same_place_is_refused_in_one_sentence(tmp_path):
    copy = tmp_path / "awq"
    shutil.copytree(HERE, copy)
    (copy / "quantize").mkdir()
    (copy / "quantize" / "quantizer.py").write_text("")
    done = subprocess.run([sys.executable, "-c", "import awq"], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: AutoAWQ's files lie in") and "pip uninstall" in last


def test_layer_names_of_other_packages_cost_nothing_until_used():
    code = "import awq.modules.linear, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_torch_layers_equal_the_checkpoint(quantized):
    torch = pytest.importorskip("torch")
    from awq.modules.linear import WQLinear_GEMM

    model = awq.load(quantized)
    name = "model.layers.0.mlp.up_proj"
    layer = WQLinear_GEMM(4, 32, 64, 128, False, "cpu")
    for part in ("qweight", "qzeros", "scales"):
        getattr(layer, part).copy_(torch.from_numpy(model._checkpoint.tensor(f"{name}.{part}")))
    assert torch.equal(layer.dequantized().T, torch.from_numpy(model.tensor(name + ".weight")))


def test_errors_are_what_a_python_programmer_catches(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        awq.load(tmp_path / "nothing")
    assert isinstance(error.value, awq.AwqError) and error.value.code == "not_found"
    with pytest.raises(AttributeError):
        awq.no_such_name
