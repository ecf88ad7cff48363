# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""injectionshield 0.1.0 as a defence for `shieldwall lab run`: one JSON line in, one out. Runs in the peer's own environment."""

import importlib.metadata
import json
import sys
import time

import injectionshield

VERSION = "0.1.0"


def judge(text: str) -> dict[str, object]:
    """Its risk score is the severity of the gravest match; it calls a text unsafe from `MEDIUM` on."""
    found = injectionshield.scan(text)
    return {"score": float(found.risk_score), "flagged": not found.safe}


def main() -> None:
    """Answer until the input ends. Another version than the pinned one would be another figure, so it ends at once."""
    if importlib.metadata.version("injectionshield") != VERSION:
        sys.exit(f"injectionshield {VERSION} is pinned, another version is installed")
    for line in sys.stdin.buffer:
        text = json.loads(line)["text"]
        began = time.process_time_ns()
        try:
            answer = judge(text)
        except Exception as error:  # the range counts it; its words may hold the text
            answer = {"failure": type(error).__name__}
        answer |= {"cpu_us": (time.process_time_ns() - began) / 1000, "name": "injectionshield", "version": VERSION}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
