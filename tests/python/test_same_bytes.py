"""Python and the command line write the same files."""
import subprocess

import awq
import tiny
from awq import AutoAWQForCausalLM
from awq.calibration import json_lines


def run(command, *arguments):
    done = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_autoawq_path_equals_the_command_line(command, model, tmp_path):
    data = tmp_path / "calib_data.jsonl"
    data.write_text(json_lines(tiny.TEXTS))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(command, "quantize", model, "-o", tmp_path / "a" / "out", "--group-size", 32, "--calib", data, "--samples", 128)
    m = AutoAWQForCausalLM.from_pretrained(model)
    m.quantize(None, {"q_group_size": 32}, calib_data=tiny.TEXTS)
    m.save_quantized(tmp_path / "b" / "out")
    assert tiny.digests(tmp_path / "a") == tiny.digests(tmp_path / "b")


def test_quantize_equals_the_command_line(command, model, tmp_path):
    data = tmp_path / "text.txt"
    data.write_text(tiny.long_text(8))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for extra, arguments in [(["--sym", "--no-check"], {"symmetric": True, "check": False}),
                             (["--bits", 3, "--skip", "down_proj"], {"bits": 3, "skip": ["down_proj"]}),
                             (["--method", "rtn"], {"method": "rtn"})]:
        run(command, "quantize", model, "-o", tmp_path / "a" / "out", "--calib", data, "--samples", 4, "--force", *extra)
        awq.quantize(model, tmp_path / "b" / "out", calib_data=data, samples=4, force=True, progress=False, **arguments)
        assert tiny.digests(tmp_path / "a") == tiny.digests(tmp_path / "b"), extra
