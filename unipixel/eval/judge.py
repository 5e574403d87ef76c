"""A judge of descriptions: whoever compares one with a reference and gives grades.

The only one here asks an OpenAI-compatible endpoint, hosted or one's own. Grades of a language model drawn at
temperature 0.7 vary from run to run; they are written down beside the predictions, with the judge's name.

Source: VideoRefer Suite (arXiv 2501.00599), Bench-D: four dimensions, 0 to 5, temperature 0.7, top-p 0.95, five tries.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from unipixel.errors import UnipixelError
from unipixel.eval.captions import BEST_GRADE, DIMENSIONS
from unipixel.eval.predictions import GradeLine, LineFile, PredictionLine, read_lines

KEY_VARIABLE = "OPENAI_API_KEY"
INSTRUCTION = """You compare a predicted description of one object in a video with the correct one, in four respects:
1. Subject Correspondence: is it the same subject?
2. Appearance Description: do colour, shape, texture and the like agree?
3. Temporal Description: do actions and movements agree?
4. Hallucination Detection: is everything it says supported by the correct description?
Give each respect an integer score from 0 (nothing fits) to 5 (fits perfectly) and explain it in one sentence. Answer in
exactly this form:
1. Subject Correspondence: 5
Explanation: ...
2. Appearance Description: 5
Explanation: ...
3. Temporal Description: 5
Explanation: ...
4. Hallucination Detection: 5
Explanation: ..."""
QUESTION = "##Correct answer: {}\n##Predicted answer: {}\n"


class JudgeError(UnipixelError):
    """A judge could not be reached, or did not grade."""


class Judge(Protocol):
    """Whoever grades descriptions."""

    @property
    def name(self) -> str:
        """Under which its grades are kept."""

    def grade(self, caption: str, prediction: str) -> dict[str, float]:
        """Grades 0 to 5 by the short names in `DIMENSIONS`; one that was not given is missing.

        Raises:
            JudgeError: there are no grades to have.
        """


class EndpointJudge:
    """A model behind an OpenAI-compatible ``/chat/completions`` route.

    The environment variable ``OPENAI_API_KEY``, if it is set, is sent as bearer token.

    Args:
        name: of the model.
        wait_s: seconds before the second try; doubled before each further one.
        original: read grades as the original does, see `parse_grades`.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        tries: int = 5,
        timeout_s: float = 60.0,
        wait_s: float = 2.0,
        original: bool = False,
    ) -> None:
        self.name, self.base_url, self.original = name, base_url, original
        self.tries, self.timeout_s, self.wait_s = tries, timeout_s, wait_s

    def grade(self, caption: str, prediction: str) -> dict[str, float]:
        """Ask until there are grades.

        Raises:
            JudgeError: none came in all tries, or the endpoint refuses the request.
        """
        reason = ""
        for number in range(self.tries):
            if number:
                time.sleep(self.wait_s * 2 ** (number - 1))
            try:
                grades = parse_grades(self._request_reply(QUESTION.format(caption, prediction)), original=self.original)
            except urllib.error.HTTPError as error:
                reason = f"it answered {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 409, 429):
                    break  # asking again would not help
            except (OSError, ValueError, LookupError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if grades:
                    return grades
                reason = "its reply holds no grades in the form asked for"
        raise JudgeError(f"the judge {self.name} at {self.base_url} gave no grades ({reason})")

    def _request_reply(self, question: str) -> str:
        body = {
            "model": self.name,
            "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}],
            "temperature": 0.7,
            "top_p": 0.95,
            "max_tokens": 800,
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(KEY_VARIABLE, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        if not url.lower().startswith(("http://", "https://")):
            raise JudgeError(f"the judge's address is {self.base_url!r}; it must begin with http:// or https://")
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            text = json.loads(response.read())["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise ValueError(f"the reply's content is a {type(text).__name__}, expected text")
        return text


def parse_grades(text: str, *, original: bool = False) -> dict[str, float]:
    """Grades by short name from lines such as "1. Subject Correspondence: 5"; those outside of 0 to 5 are left out.

    Args:
        original: as in the published evaluation of UniPixel: a line with other signs between number, name and grade
            does not count, and any value does.
    """
    if original:
        names = {full: short for short, full in DIMENSIONS.items()}
        lines = re.findall(r"\d+\. ([^:\n]+): (\d+(?:\.\d+)?)", text)
        return {names[full]: float(value) for full, value in lines if full in names}
    grades = {}
    for number, (short, full) in enumerate(DIMENSIONS.items(), start=1):
        found = re.search(rf"{number}\.\s*\**{full}\**\s*:\s*\**\s*(\d+(?:\.\d+)?)", text, re.IGNORECASE)
        if found and float(found[1]) <= BEST_GRADE:
            grades[short] = float(found[1])
    return grades


def get_grades_path(path: Path) -> Path:
    """Where the grades of a file of predictions are kept."""
    return path.with_name(f"{path.stem}.grades.jsonl")


def grade_predictions(
    path: Path, judge: Judge, progress: Callable[[int, int, int], None] | None = None, *, retry: bool = False
) -> None:
    """Have the descriptions of a file of predictions graded, as far as they are not; failures are written down.

    Raises:
        ValueError: another judge has graded some of them.
        DatasetError: a file is damaged.
    """
    header, lines, _ = read_lines(path, PredictionLine)
    if header is None:
        return
    wanted = [line for line in lines if line.is_answered]
    graded = LineFile(get_grades_path(path), header, GradeLine, retry=retry)
    try:
        other = {line.judge for line in graded.lines.values()} - {judge.name}
        if other:
            raise ValueError(
                f"{get_grades_path(path)} holds grades of {other.pop()}, not of {judge.name}; delete that file "
                "to have everything graded anew"
            )
        failed = sum(bool(line.error) for line in graded.lines.values())
        for line in wanted:
            if line.id in graded.lines:
                continue
            graded.append(_grade_line(judge, line))
            failed += bool(graded.lines[line.id].error)
            if progress is not None:
                progress(len(graded.lines), len(wanted), failed)
    finally:
        graded.close()


def _grade_line(judge: Judge, line: PredictionLine) -> GradeLine:
    caption, prediction = line.measures[0]["caption"], line.measures[0]["prediction"]
    try:
        # nothing said is worth nothing
        grades = judge.grade(caption, prediction) if prediction.strip() else dict.fromkeys(DIMENSIONS, 0.0)
    except JudgeError as error:
        return GradeLine(id=line.id, judge=judge.name, error=str(error))
    return GradeLine(id=line.id, judge=judge.name, grades=grades)


def merge_grades(path: Path, lines: list[PredictionLine]) -> tuple[list[PredictionLine], list[str]]:
    """The lines of a file of predictions with their grades, and what there is to say about these.

    Raises:
        DatasetError: the file of grades is damaged.
    """
    _, found, _ = read_lines(get_grades_path(path), GradeLine)
    if not found:
        return lines, []
    grades = {line.id: line.grades for line in found if line.grades is not None}
    failed = sum(bool(line.error) for line in found)
    merged = []
    for line in lines:
        if line.id in grades and line.is_answered:
            line = replace(line, measures=({**line.measures[0], "grades": grades[line.id]},))
        merged.append(line)
    notes = [f"graded by {found[0].judge}"]
    if failed:
        notes.append(f"descriptions that got no grades from the judge, in no average of grades: {failed}")
    return merged, notes
