"""Two threads, exceptions in callbacks, Ctrl-C and going on after it."""
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import awq
import tiny


def test_two_models_generate_from_two_threads(quantized, model):
    models = [awq.load(quantized), awq.load(model)]
    want = [m.generate([[5, 9, 11]], max_new_tokens=60, eos_token_id=[]) for m in models]
    got = [[], []]

    def work(i):
        for _ in range(5):
            got[i].append(models[i].generate([[5, 9, 11]], max_new_tokens=60, eos_token_id=[]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [[w] * 5 for w in want]


def test_one_model_shared_by_threads_and_other_python_code_runs_meanwhile(quantized):
    model = awq.load(quantized)
    want = model.generate([[5, 9]], max_new_tokens=100, eos_token_id=[])
    got, ticks, done = [], 0, threading.Event()

    def work():
        got.append(model.generate([[5, 9]], max_new_tokens=100, eos_token_id=[]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        ticks += 1
        time.sleep(0.0005)
    done.set()
    assert got == [want] * 3 and ticks > 0


class Mine(Exception):
    pass


def test_exceptions_in_callbacks_come_out_and_the_next_call_works(deep_model, quantized, tmp_path):
    seen = []

    def callback(event):
        seen.append(event)
        if event["done"] >= 2 and event["stage"] != "check":
            raise Mine(event["stage"])

    with pytest.raises(Mine):
        awq.quantize(deep_model, tmp_path / "out", calib_data=tiny.TEXTS, check=False, progress=False, callback=callback)
    assert not (tmp_path / "out").exists()
    awq.quantize(deep_model, tmp_path / "out", calib_data=tiny.TEXTS, check=False, progress=False)
    assert (tmp_path / "out" / "manifest.json").exists()

    model = awq.load(quantized)

    def stop(_ids, _scores):
        raise Mine("criterion")

    for arguments in ({"stopping_criteria": [stop]}, {"logits_processor": [stop]}):
        with pytest.raises(Mine):
            model.generate([[5, 9]], max_new_tokens=8, **arguments)
    assert len(model.generate([[5, 9]], max_new_tokens=8, eos_token_id=[])[0]) == 10


def test_ctrl_c_stops_quantize_within_a_second_and_the_same_call_goes_on(tmp_path):
    """A process of its own gets SIGINT after its second block; then the same call finishes, with the bytes of an undisturbed one."""
    model = tiny.write_model(tmp_path / "model", num_hidden_layers=6, hidden_size=256, intermediate_size=1024, num_attention_heads=4)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(f"""
        import sys, awq
        def callback(event):
            print(event["stage"], event["done"], flush=True)
        try:
            awq.quantize({model!r}, sys.argv[1], calib_data=[{tiny.long_text(300)!r}], samples=16, check=False, progress=False, callback=callback)
        except KeyboardInterrupt:
            sys.exit(77)
    """))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def start(output):
        return subprocess.Popen([sys.executable, str(script), str(output)], stdout=subprocess.PIPE, text=True, env=environment)

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    process = start(tmp_path / "a" / "out")
    for line in process.stdout:
        stage, done = line.split()
        if stage == "quantize" and float(done) >= 2:
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    stopped_after = time.monotonic() - began
    assert process.returncode == 77
    assert not (tmp_path / "a" / "out").exists()
    again = start(tmp_path / "a" / "out")
    second, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    whole = start(tmp_path / "b" / "out")
    first, _ = whole.communicate(timeout=120)
    assert tiny.digests(tmp_path / "a" / "out") == tiny.digests(tmp_path / "b" / "out")
    assert second.count("quantize") < first.count("quantize")
    assert stopped_after < 1.0 * float(os.environ.get("AWQ_TEST_SLOWNESS", "1")), f"stopped after {stopped_after:.2f} s"


def test_ctrl_c_stops_generation(quantized, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(f"""
        import sys, awq
        model = awq.load({quantized!r})
        print("go", flush=True)
        try:
            while True:
                model.generate([[5, 9]], max_new_tokens=1500, eos_token_id=[])
        except KeyboardInterrupt:
            sys.exit(77)
    """))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 77
