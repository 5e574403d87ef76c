"""Ask about a folder of media: python examples/batch_on_ray.py [FOLDER QUESTION OUT ACTORS [ADDRESS]].

With ACTORS above 0 so many models answer at once, on Ray (`pip install 'unipixel[scale]'`): on this machine, or on the
cluster at ADDRESS. Ended at any moment, the same command goes on where it was.
"""

import sys
from collections import Counter
from importlib.resources import files

from unipixel.batch import read_answers, run_batch


def main() -> None:
    """Answer, and count what was found."""
    given = sys.argv[1:]
    folder = given[0] if given else str(files("unipixel") / "examples")
    question = given[1] if len(given) > 1 else "Please segment the rocket."
    out = given[2] if len(given) > 2 else "answers"
    done = run_batch(
        folder,
        out,
        question,
        actors=int(given[3]) if len(given) > 3 else 0,
        address=given[4] if len(given) > 4 else None,
        progress=lambda items, total, failed: print(f"{items} of {total}, {failed} failed"),
    )
    labels = Counter(found["label"] for row in read_answers(out) for found in row["objects"] or [])
    for number, (label, count) in enumerate(labels.most_common(), 1):
        print(f"object {number}: {label}, in {count} of {done['items']} items")


if __name__ == "__main__":
    main()
