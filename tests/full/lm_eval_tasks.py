#!/usr/bin/env python3
"""Multiple-choice tasks by awq against lm-evaluation-harness on the same questions and the same weights in fp32.

Usage: lm_eval_tasks.py harness MODEL.gguf DATA_DIR THEIRS.json [--tokenizer DIR] [--device cpu|cuda] [--items 500] [--per-subject 10]
       lm_eval_tasks.py compare AWQ MODEL.gguf DATA_DIR THEIRS.json [--record FILE]

--tokenizer: transformers' own conversion of a GGUF vocabulary knows no pre-tokenizer but GPT-2's and so splits digits behind several
spaces otherwise than the model's tokenizer.json; a folder with the latter (awq quantize writes one) takes its place.

The first half needs lm-eval (0.4.13), transformers, torch and gguf, and may run on another machine; the second needs awq. The harness runs its own task definitions, of which only the data set is
replaced: by files made from DATA_DIR in the form its authors publish. At most 5 answers of a task may differ, and none of the
first 100 questions' log-likelihoods by more than 0.01. Exits with 1 when something does.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile, time

FILES = {"arc_easy": "arc_easy.test_a", "arc_challenge": "arc_challenge.test_a", "hellaswag": "hellaswag.val_a2500",
         "winogrande": "winogrande.val_a", "piqa": "piqa.valid_a", "openbookqa": "openbookqa.test_a", "mmlu": "mmlu.test_a"}
MOST_ANSWERS, MOST_LOGPROB, CHECKED = 5, 0.01, 100


def lines(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line.strip()]


def labelled(choices):
    return {"text": choices, "label": list("ABCDEFGH"[:len(choices)])}


def published(task, q):
    """A question as the data set's authors have it."""
    if task.startswith("arc"):
        key = q["answerKey"] if "answerKey" in q else "ABCDEFGH"[q["answer"]]
        return {"question": q["question"], "choices": labelled(q["choices"]), "answerKey": key}
    if task == "openbookqa":
        return {"question_stem": q["question"], "choices": labelled(q["choices"]), "answerKey": "ABCDEFGH"[q["answer"]]}
    if task == "winogrande":
        return {"sentence": q["question"], "option1": q["choices"][0], "option2": q["choices"][1], "answer": str(q["answer"] + 1)}
    if task == "hellaswag":
        label, context = q["ctx"].split(": ", 1)
        return {"activity_label": label, "ctx_a": context, "ctx_b": "", "endings": q["endings"], "label": str(q["label"])}
    if task == "mmlu":
        return {key: q[key] for key in ("question", "choices", "answer")}
    return {key: q[key] for key in ("goal", "sol1", "sol2", "label")}


def write_lines(path, objects):
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))


def write_task(folder, name, definition, splits):
    """A harness task that includes `definition` and reads its splits from files."""
    fields = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {k: str(v) for k, v in splits.items()}}}
    text = f"include: {definition}\ntask: local_{name}\ntag: null\n" + "".join(f"{k}: {json.dumps(v)}\n" for k, v in fields.items())
    if "dev" in splits:
        text += "test_split: test\nfewshot_split: dev\n"
    else:
        text += "training_split: null\nvalidation_split: test\ntest_split: null\n"
    (folder / f"local_{name}.yaml").write_text(text)


def make_tasks(folder, data, tasks):
    import lm_eval
    definitions = pathlib.Path(lm_eval.__file__).parent / "tasks"
    where = {"arc_easy": "arc/arc_easy.yaml", "arc_challenge": "arc/arc_challenge.yaml", "hellaswag": "hellaswag/hellaswag.yaml",
             "winogrande": "winogrande/default.yaml", "piqa": "piqa/piqa.yaml", "openbookqa": "openbookqa/openbookqa.yaml"}
    names = {}
    for task in tasks:
        questions = lines(data / (FILES[task] + ".jsonl"))
        if task != "mmlu":
            write_lines(folder / f"{task}.jsonl", [published(task, q) for q in questions])
            write_task(folder, task, definitions / where[task], {"test": folder / f"{task}.jsonl"})
            names[task] = [f"local_{task}"]
            continue
        examples, names[task] = lines(data / "mmlu.dev.jsonl"), []
        for subject in dict.fromkeys(q["subject"] for q in questions):
            for split, source in ("test", questions), ("dev", examples):
                write_lines(folder / f"{subject}.{split}.jsonl", [published(task, q) for q in source if q["subject"] == subject])
            write_task(folder, f"mmlu_{subject}", definitions / f"mmlu/default/mmlu_{subject}.yaml",
                       {split: folder / f"{subject}.{split}.jsonl" for split in ("test", "dev")})
            names[task].append(f"local_mmlu_{subject}")
    return names


def by_harness(model, folder, names, limit, shots):
    """{(subject, index): [log-likelihood of each choice]}"""
    import lm_eval
    from lm_eval.tasks import TaskManager
    result = lm_eval.simple_evaluate(model=model, tasks=names, num_fewshot=shots, limit=limit, log_samples=True, bootstrap_iters=0,
                                     task_manager=TaskManager(include_path=str(folder)))
    found = {}
    for name, samples in result["samples"].items():
        subject = name.removeprefix("local_mmlu_") if name.startswith("local_mmlu_") else ""
        for sample in samples:
            logprobs = [float(r[0]) for r in sample["filtered_resps"]]
            found[subject, sample["doc_id"]] = (logprobs, {m: sample[m] for m in ("acc", "acc_norm") if m in sample})
    return found


def by_awq(awq, model, data, task, limit, folder):
    samples = folder / f"{task}.samples.jsonl"
    command = [awq, "eval", model, "--task", task, "--data", data / (FILES[task] + ".jsonl"), "--limit", limit, "--samples", samples,
               "--progress", "none", "--json"]
    if task == "mmlu":
        command += ["--fewshot", data / "mmlu.dev.jsonl"]
    result = json.loads(subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE).stdout)
    metrics = ("acc", "acc_norm")
    found = {(i.get("subject", ""), i["doc_id"]): (i["logprobs"], dict(zip(metrics, i["scores"]))) for i in lines(samples)[1:]}
    return found, result


def compare(task, ours, theirs):
    assert ours.keys() == theirs.keys(), f"{task}: other questions: {len(ours)} here, {len(theirs)} there"
    def chosen(logprobs):
        return max(range(len(logprobs)), key=lambda i: logprobs[i])
    keys = list(ours)
    first = keys[:CHECKED] if task != "mmlu" else sorted(keys, key=lambda k: k[1])[:CHECKED]
    report = {"items": len(ours), "answers_differ": sum(chosen(ours[k][0]) != chosen(theirs[k][0]) for k in keys),
              "largest_logprob_difference_100": max(abs(a - b) for k in first for a, b in zip(ours[k][0], theirs[k][0])),
              "largest_logprob_difference": max(abs(a - b) for k in keys for a, b in zip(ours[k][0], theirs[k][0]))}
    for metric in ("acc", "acc_norm"):
        if metric in theirs[keys[0]][1]:
            report[metric + "_differ"] = sum(ours[k][1][metric] != theirs[k][1][metric] for k in keys)
            report[metric] = [round(sum(side[k][1][metric] for k in keys) / len(keys), 4) for side in (ours, theirs)]
    report["ok"] = max(v for k, v in report.items() if k.endswith("differ")) <= MOST_ANSWERS and \
        report["largest_logprob_difference_100"] <= MOST_LOGPROB
    return report


def run_harness(o):
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import lm_eval, torch, transformers
    from lm_eval.models.huggingface import HFLM
    out = {"versions": {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
           "device": o.device, "model": o.model.name, "limits": {}, "seconds": {}, "tasks": {}}
    tokenizer = transformers.AutoTokenizer.from_pretrained(o.tokenizer) if o.tokenizer else None
    model = HFLM(pretrained=str(o.model.parent), gguf_file=o.model.name, tokenizer=tokenizer, dtype="float32", device=o.device, batch_size=8)
    with tempfile.TemporaryDirectory() as scratch:
        names = make_tasks(pathlib.Path(scratch), o.data, o.tasks.split(","))
        for task in names:
            start, limit = time.time(), o.per_subject if task == "mmlu" else o.items
            found = by_harness(model, pathlib.Path(scratch), names[task], limit, 5 if task == "mmlu" else 0)
            out["limits"][task], out["seconds"][task] = limit, round(time.time() - start, 1)
            out["tasks"][task] = [[*key, *value] for key, value in found.items()]
            o.theirs.write_text(json.dumps(out))


def run_compare(o):
    theirs = json.loads(o.theirs.read_text())
    record = {**{k: theirs[k] for k in ("versions", "device", "model")}, "tasks": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for task, limit in theirs["limits"].items():
            start = time.time()
            ours, _ = by_awq(o.awq.resolve(), o.model, o.data, task, limit, pathlib.Path(scratch))
            report = compare(task, ours, {(q[0], q[1]): (q[2], q[3]) for q in theirs["tasks"][task]})
            report["seconds"] = [round(time.time() - start, 1), theirs["seconds"][task]]
            record["tasks"][task] = report
            print(task, json.dumps(report), flush=True)
            if o.record:
                o.record.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(not all(r["ok"] for r in record["tasks"].values()))


def main():
    parser = argparse.ArgumentParser()
    halves = parser.add_subparsers(required=True)
    for name, run, paths in ("harness", run_harness, ("model", "data", "theirs")), ("compare", run_compare, ("awq", "model", "data", "theirs")):
        half = halves.add_parser(name)
        half.set_defaults(run=run)
        for path in paths:
            half.add_argument(path, type=pathlib.Path)
        if name == "harness":
            half.add_argument("--device", default="cpu")
            half.add_argument("--tokenizer")
            half.add_argument("--items", type=int, default=500)
            half.add_argument("--per-subject", type=int, default=10)
            half.add_argument("--tasks", default=",".join(FILES))
        else:
            half.add_argument("--record", type=pathlib.Path)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
