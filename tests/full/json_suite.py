#!/usr/bin/env python3
"""What the three JSON readers accept of a suite of test texts: PARSE_STREAM (parse_stream.cpp) and a .jsonl file whose lines have
"name", "expect" (accept, reject or either) and "raw_b64".

    json_suite.py PARSE_STREAM SUITE.jsonl

Prints a table and every text that is not treated as expected. Status 1 when one that must be refused is accepted.
"""
import base64, json, struct, subprocess, sys

READERS = {"c": "config.json, manifest, journal (nlohmann)", "i": "index, safetensors header, tokenizer.json (simdjson)",
           "t": "values of a chat template (own)"}


def verdicts(program, letter, texts):
    stream = b"".join(letter.encode() + struct.pack("<I", len(t)) + t for t in texts)
    out, at = subprocess.run([program], input=stream, capture_output=True, check=True).stdout, 0
    for _ in texts:
        length = struct.unpack_from("<I", out, at)[0]
        yield out[at + 4:at + 4 + length].decode()
        at += 4 + length


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    program, suite = sys.argv[1:]
    cases = [json.loads(line) for line in open(suite, encoding="utf-8")]
    texts, bad = [base64.b64decode(case["raw_b64"]) for case in cases], 0
    for letter, name in READERS.items():
        table, notes = {}, []
        for case, message in zip(cases, verdicts(program, letter, texts)):
            # The index reader says what it misses only once the text is JSON.
            accepted = not message or (letter == "i" and "expected JSON, got" not in message)
            key = (case["expect"], accepted)
            table[key] = table.get(key, 0) + 1
            if (case["expect"] == "reject" and accepted) or (case["expect"] == "accept" and not accepted):
                notes.append(f"  {'ACCEPTED' if accepted else 'refused'} {case['name']} {message[:120]}")
                bad += accepted
        print(f"{name}: " + ", ".join(f"{expect} {'accepted' if accepted else 'refused'} {n}" for (expect, accepted), n in sorted(table.items())))
        print("\n".join(notes))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
