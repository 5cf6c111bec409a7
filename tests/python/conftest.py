import os
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AWQ_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def deep_model(tmp_path_factory):
    """Blocks enough to be interrupted in the middle."""
    return tiny.write_model(tmp_path_factory.mktemp("models") / "deep", num_hidden_layers=12)


@pytest.fixture(scope="session")
def quantized(model, tmp_path_factory):
    import awq

    out = tmp_path_factory.mktemp("out") / "tiny-awq"
    awq.quantize(model, out, calib_data=[tiny.long_text()], samples=8, group_size=32, check=False, progress=False)
    return str(out)


@pytest.fixture(scope="session")
def command():
    """The awq program that was installed with the package."""
    beside = pathlib.Path(sys.executable).parent / "awq"
    found = os.environ.get("AWQ_COMMAND") or (str(beside) if beside.exists() else shutil.which("awq"))
    if not found:
        pytest.skip("the awq command is not installed")
    return found
