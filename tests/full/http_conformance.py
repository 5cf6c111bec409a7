#!/usr/bin/env python3
"""Cases of HTTP/1.1 conformance against a running server.

    http_conformance.py FILE URL [--all] [-v]

FILE has a case a line, as JSON: either those of Http11Probe (id, rfc_level, expect_status, raw_b64) or those of llhttp's tests
(id, meta, expect_error, raw_b64). Every case is sent over a connection of its own, followed by `GET /health`, which tells how the
server understood where the request ends:

  refused   one answer with an error, the connection closed, what follows not read
  accepted  an answer that is no error of framing, and /health answered after it on the same connection

The MUST cases are judged, and those that llhttp refuses; --all shows what happens to the others. Where a case may be refused or
accepted, either will do, but nothing in between. A POST to / is accepted with 405: the page there takes no POST. Ends with 1
when a case fails.
"""
import argparse, base64, collections, json, re, socket, sys, time, urllib.parse

FOLLOW = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Cases whose expectation the file only names "custom" or leaves empty: what RFC 9110 and 9112 ask for.
EITHER = """COMP-POST-CL-BODY COMP-CHUNKED-BODY COMP-CHUNKED-MULTI COMP-CHUNKED-EXTENSION COMP-CHUNKED-TRAILER-VALID COMP-CHUNKED-HEX-UPPERCASE COMP-RANGE-POST
 SMUG-TRANSFER_ENCODING SMUG-CL-COMMA-SAME SMUG-CL-COMMA-TRIPLE SMUG-EXPECT-100-CL SMUG-TRAILER-CL SMUG-TRAILER-TE SMUG-TRAILER-HOST SMUG-TRAILER-AUTH
 SMUG-TRAILER-CONTENT-TYPE SMUG-HEAD-CL-BODY SMUG-OPTIONS-CL-BODY""".split()
ACCEPT = "COMP-POST-CL-BODY COMP-CHUNKED-BODY COMP-CHUNKED-MULTI COMP-CHUNKED-TRAILER-VALID COMP-CHUNKED-HEX-UPPERCASE COMP-RANGE-POST".split()
REFUSE = """COMP-UNKNOWN-TE-501 MAL-POST-CL-HUGE-NO-BODY NORM-SP-BEFORE-COLON-CL NORM-TAB-IN-NAME SMUG-TE-XCHUNKED SMUG-TE-TRAILING-SPACE SMUG-TE-IDENTITY
 SMUG-CHUNKED-WITH-PARAMS SMUG-TE-OBS-FOLD SMUG-TE-TAB-BEFORE-VALUE SMUG-CLTE-CONN-CLOSE SMUG-TECL-CONN-CLOSE SMUG-CLTE-DESYNC SMUG-TECL-DESYNC
 SMUG-OPTIONS-TE-OBS-FOLD SMUG-CHUNK-INVALID-SIZE-DESYNC""".split()
INCOMPLETE = ["COMP-POST-CL-UNDERSEND", "COMP-CHUNKED-NO-FINAL"]
NO_UPGRADE = ["COMP-UPGRADE-POST", "COMP-UPGRADE-MISSING-CONN", "COMP-UPGRADE-UNKNOWN", "COMP-UPGRADE-INVALID-VER", "COMP-UPGRADE-HTTP10"]


class Answer:
    def __init__(self, data, closed):
        self.data, self.closed = data, closed
        self.statuses = [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]
        self.final = next((s for s in self.statuses if s >= 200), 0)
        self.answers = len([s for s in self.statuses if s >= 200])
        self.head, _, self.rest = data.partition(b"\r\n\r\n")

    def refused(self, statuses=range(400, 600)):
        return self.answers == 1 and self.final in statuses and self.closed

    def accepted(self):
        return self.answers == 2 and self.final not in (400, 408, 411, 413, 431, 501, 505) and self.data.endswith(b'{"status":"ok"}')

    def field(self, name):
        found = re.search(rb"(?im)^" + name.encode() + rb": ([^\r]*)", self.head)
        return found and found.group(1).decode()


def exchange(address, data, wait, half_close=False):
    with socket.create_connection(address, timeout=wait) as s:
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        out, closed = b"", False
        try:
            while True:
                piece = s.recv(65536)
                if not piece:
                    closed = True
                    break
                out += piece
        except socket.timeout:
            pass
        except ConnectionResetError:
            closed = True
        return Answer(out, closed)


def probe_case(case, address, wait):
    """(whether it is right, what was seen)"""
    raw, name, expected = base64.b64decode(case["raw_b64"]), case["id"], case["expect_status"]
    half_close = name in INCOMPLETE
    a = exchange(address, raw if half_close else raw + FOLLOW, wait, half_close)
    seen = f"{a.statuses} {'closed' if a.closed else 'open'}"
    if half_close:
        return a.closed and (a.answers == 0 or a.refused()), seen
    if name == "COMP-UNKNOWN-TE-501":
        return a.refused([501]), seen
    if name in REFUSE:
        return a.refused(), seen
    if name in ACCEPT or expected == "StatusCodeRange.Range2xx":
        return a.accepted() and (200 <= a.final < 300 or raw.startswith(b"POST / ") and a.final == 405), seen
    if name in EITHER:
        return a.accepted() or a.refused(), seen
    if name in NO_UPGRADE:
        return 101 not in a.statuses and (a.accepted() or a.answers == 1 and a.closed), seen
    if name == "COMP-CONNECTION-CLOSE":
        return a.answers == 1 and a.closed and a.final == 200, seen
    if name == "COMP-HEAD-NO-BODY":
        return a.accepted() and a.rest.startswith(b"HTTP/1.1 "), seen
    if name == "COMP-405-ALLOW":
        return a.final == 405 and bool(a.field("Allow")), seen
    if name == "COMP-DATE-HEADER":
        date = a.field("Date") or ""
        return bool(re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)), f"{seen} Date: {date}"
    if name == "COMP-NO-1XX-HTTP10":
        return a.answers == 1 and all(s >= 200 for s in a.statuses), seen
    if name == "COMP-NO-CL-IN-204":
        return a.accepted() and (a.final != 204 or a.field("Content-Length") is None), seen
    if name == "SMUG-ABSOLUTE-URI-HOST-MISMATCH":
        return 400 <= a.final < 500, seen
    if expected == "StatusCodeRange.Exact(400)":
        return a.refused([400]), seen
    return False, f"{seen} - this script has no expectation for it"


def llhttp_case(case, address, wait):
    raw, error = base64.b64decode(case["raw_b64"]), case["expect_error"]
    first, newline, rest = raw.partition(b"\r\n")
    # Without a Host all would be refused for that alone.
    if newline and first.endswith(b"HTTP/1.1") and b"\nhost:" not in raw.lower() and not rest.startswith(b" "):
        raw = first + newline + b"Host: localhost\r\n" + rest
    a = exchange(address, raw + FOLLOW, wait)
    seen = f"{a.statuses} {'closed' if a.closed else 'open'}"
    if error.startswith("Pause on"):  # a parser hands over here; a server that does not upgrade goes on or refuses
        return 101 not in a.statuses and not (raw.startswith(b"CONNECT") and a.final < 400), seen
    if error.startswith("Data after"):
        return a.answers == 1 and a.closed, seen
    if "Expected space after method" in error or "Invalid method for" in error:  # the method is one that is not known
        return a.final >= 400, seen
    return a.refused(), seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("url")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--wait", type=float, default=2.0, help="seconds of silence after which a connection counts as open")
    parser.add_argument("-v", "--verbose", action="store_true")
    o = parser.parse_args()
    url = urllib.parse.urlsplit(o.url)
    address = (url.hostname, url.port or 80)
    counts, failed = collections.Counter(), 0
    for line in open(o.file, encoding="utf-8"):
        case = json.loads(line)
        probe = "rfc_level" in case
        judged = case["rfc_level"] == "Must" if probe else bool(case["expect_error"])
        if judged:
            right, seen = (probe_case if probe else llhttp_case)(case, address, o.wait)
            kind = "MUST" if probe else "llhttp errors"
            counts[kind, right] += 1
            failed += not right
            if not right or o.verbose:
                print(f"{'ok  ' if right else 'FAIL'} {case['id']}: {seen} - {case['description']}")
        elif o.all:
            a = exchange(address, base64.b64decode(case["raw_b64"]) + FOLLOW, o.wait)
            verdict = "accepted" if a.accepted() else "refused" if a.refused() else "otherwise"
            counts["not judged", verdict] += 1
            print(f"     {case['id']}: {a.statuses} {verdict} - {case['description']}")
    health = exchange(address, FOLLOW, o.wait)
    if health.final != 200:
        sys.exit("the server does not answer any more")
    for kind in ("MUST", "llhttp errors"):
        print(f"{kind}: {counts[kind, True]} of {counts[kind, True] + counts[kind, False]} right")
    if o.all:
        print(", ".join(f"{n} {verdict}" for (kind, verdict), n in sorted(counts.items(), key=str) if kind == "not judged") + " of the others")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
