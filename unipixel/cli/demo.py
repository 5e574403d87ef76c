"""``unipixel demo`` and ``unipixel stickers``: the model on held-out scenes of the built-in world, and samples of it.

The scenes are the first of two held-out seeds that hold what is to be shown; see `find_still_scene` and
`find_clip_scene`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from unipixel.cli import options
from unipixel.cli.options import load_engine
from unipixel.cli.output import check_folder, show_written, stderr

if TYPE_CHECKING:
    from unipixel.engine.answer import Answer
    from unipixel.engine.engine import Engine
    from unipixel.stickers import Scene

STILL_SEED, CLIP_SEED = 100, 101
"""Above `stickers.EVAL_SEED`; no figure and no training draws from them."""
NUM_SHEET_FRAMES = 5
"""Frames of the clip in the picture."""


def open_example(name: str) -> AbstractContextManager[Path]:
    """A file that comes with the package, as a path for as long as the context lasts."""
    return as_file(files("unipixel") / "examples" / name)


def find_still_scene() -> Scene:
    """The first held-out picture with exactly four things of four names."""
    from unipixel.stickers import EVAL_SEED, generate_scene

    made = (generate_scene(EVAL_SEED + STILL_SEED, index) for index in count())
    return next(one for one in made if len(one.objects) == 4 == len({item.thing.name for item in one.objects}))


def find_clip_scene() -> Scene:
    """The first held-out clip that opens with at least two things, of different names, of which exactly one leaves."""
    from unipixel.stickers import EVAL_SEED, generate_video

    for index in count():
        made = generate_video(EVAL_SEED + CLIP_SEED, index)
        staying, leaving = _split_objects(made)
        names = [item.thing.name for item in made.objects]
        if len(leaving) == 1 and staying and len(set(names)) == len(names):
            return made
    raise AssertionError("there is always one")


def _split_objects(scene: Scene) -> tuple[list[int], list[int]]:
    """Objects that are seen from the first frame to the last, and those that are seen first and then leave."""
    staying = [n for n in range(len(scene.objects)) if scene.areas[n].all()]
    leaving = [n for n, item in enumerate(scene.objects) if "leave" in item.does and scene.areas[n, 0]]
    return staying, leaving


def demo(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the picture and the clip.")
    ] = Path("demo"),
    model: options.Model = "nano",
    device: options.Device = "auto",
    max_new_tokens: options.MaxTokens = 64,
) -> None:
    """Ask about a picture and a clip of stickers that were held out, score and draw the answers."""
    check_folder(out, "--out")
    engine = load_engine(model, device)
    from unipixel.draw import make_contact_sheet, write_mp4, write_png

    still, clip = find_still_scene(), find_clip_scene()
    pictures, captions = zip(*_ask_about_picture(engine, still, max_new_tokens), strict=True)
    top = make_contact_sheet(pictures, captions, columns=len(pictures), cell_width=224)
    frames, caption = _ask_about_clip(engine, clip, max_new_tokens)
    chosen = np.linspace(0, len(frames) - 1, NUM_SHEET_FRAMES).round().astype(int)
    notes = [caption] + [""] * (len(chosen) - 1)
    bottom = make_contact_sheet([frames[t] for t in chosen], notes, columns=len(chosen), cell_width=224)
    out.mkdir(parents=True, exist_ok=True)
    show_written(
        [write_png(_stack_images([top, bottom]), out / "demo.png"), write_mp4(frames, out / "demo.mp4", fps=4)]
    )


def _print_answer(question: str, answer: str, score: str) -> str:
    """Print what was asked, answered and scored; returns it as a caption."""
    typer.echo(f"\n{question}\n  {answer}\n  {score}")
    return f"{question}\n{answer}\n{score}"


def _ask_about_picture(engine: Engine, scene: Scene, max_new_tokens: int) -> Iterator[tuple[np.ndarray, str]]:
    """By text, by a point, something that is not there, a name from memory, and a choice; each in a session anew.

    Yields:
        The picture with what was found, uint8 (H, W, 3), and its caption.
    """
    from unipixel.draw import mark_prompts, overlay
    from unipixel.errors import PromptError
    from unipixel.masks import find_interior_point
    from unipixel.sample import Point
    from unipixel.stickers import Facts
    from unipixel.stickers.choice_tasks import ask_name_choice
    from unipixel.stickers.segment_tasks import choose_absent_name

    names = [item.thing.name for item in scene.objects]
    rng = np.random.default_rng((scene.seed, scene.index, 3))
    facts, picture, truth = Facts(scene), scene.image, scene.masks[:, 0]
    places = [find_interior_point(mask) for mask in truth]
    clicks = [Point(float(x), float(y)) for x, y in places]
    marked = [mark_prompts(picture, [(click.x, click.y, True)]) for click in clicks]
    with engine.open(picture) as session:

        def ask(text: str | None, at: Sequence[int] = ()) -> Answer:
            session.reset()
            if text is not None and at:
                for place, n in enumerate(at, 1):
                    session.segment([Point(clicks[n].x, clicks[n].y, object_id=place)], max_new_tokens=max_new_tokens)
                return session.ask(text, about=list(session.objects), max_new_tokens=max_new_tokens)
            return session.ask(text, prompts=[clicks[n] for n in at], max_new_tokens=max_new_tokens)

        def draw(answer: Answer | None, under: np.ndarray) -> np.ndarray:
            masks = [one.masks[0] for one in (answer.objects if answer else session.objects.values())]
            return overlay(under, np.array(masks).reshape(-1, *picture.shape[:2]))

        text = f"Please segment the {names[0]} in this image."
        answer = ask(text)
        yield draw(answer, picture), _print_answer(text, answer.text, _score_answer(answer, truth[0]))
        answer = ask(None, [1])
        text = f"(a click on the {names[1]})"
        yield draw(answer, marked[1]), _print_answer(text, answer.text, _score_answer(answer, truth[1]))
        missing = choose_absent_name(facts, rng)
        text = f"Please segment the {missing} in this image."
        answer = ask(text)
        right = not any(one.masks.any() for one in answer.objects)
        verdict = "right: nothing is marked" if right else "wrong: it is not there"
        yield draw(answer, picture), _print_answer(text, answer.text, verdict)
        text, best = ask_name_choice(facts, 3, 1, rng)
        for n, asked, expected in ((2, "What is [1]?", f"the {names[2]}"), (3, text, best)):
            try:
                said = ask(asked, [n]).text.strip()
            except PromptError:  # there is nothing to ask about
                said = "(nothing was found under the click)"
            verdict = "right" if said.rstrip(".") == expected else f"wrong: it is {expected}"
            yield draw(None, marked[n]), _print_answer(f"(a click, then) {asked}", said, verdict)


def _ask_about_clip(engine: Engine, scene: Scene, max_new_tokens: int) -> tuple[list[np.ndarray], str]:
    """Two things followed to the end of a clip, one of which leaves: all frames drawn, and the caption."""
    from unipixel.draw import overlay
    from unipixel.metrics import volume_scores

    staying, leaving = _split_objects(scene)
    wanted = [staying[0], leaving[0]]
    names = [scene.objects[n].thing.name for n in wanted]
    text = f"Please segment the {names[0]} and the {names[1]} in this video."
    with engine.open(scene.frames) as session:
        answer = session.ask(text, max_new_tokens=max_new_tokens)
    masks = [one.masks for one in answer.objects]
    frames = [
        overlay(frame, np.array([m[t] for m in masks]).reshape(-1, *frame.shape[:2]))
        for t, frame in enumerate(scene.frames)
    ]
    nothing = np.zeros_like(scene.masks[0])
    scores = [
        f"{name} J&F {volume_scores(masks[k] if k < len(masks) else nothing, scene.masks[n])['J&F']:.2f}"
        for k, (n, name) in enumerate(zip(wanted, names, strict=True))
    ]
    return frames, _print_answer(text, answer.text, ", ".join(scores))


def _score_answer(answer: Answer, truth: np.ndarray) -> str:
    """IoU of everything that an answer segments."""
    from unipixel.metrics import iou

    mask = np.zeros_like(truth)
    for one in answer.objects:
        mask |= one.masks[0]
    return f"IoU {iou(mask, truth):.2f}"


def _stack_images(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, white where one is narrower."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])


def stickers(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write to.")],
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="How many samples.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other samples.")] = 0,
    video: Annotated[bool, typer.Option("--video", help="Clips instead of pictures.")] = False,
    sprites: Annotated[
        Path | None,
        typer.Option("--sprites", metavar="DIR", help="Draw with the PNGs and labels.json of this folder instead."),
    ] = None,
    world: Annotated[
        str, typer.Option("--world", help="'default', or 'hard' for small and crowded pictures of all things.")
    ] = "default",
    photos: Annotated[
        Path | None, typer.Option("--photos", metavar="DIR", help="Photos whose crops serve as backgrounds.")
    ] = None,
) -> None:
    """Write samples of the built-in world: pictures or clips, exact masks, questions and answers, a contact sheet."""
    from unipixel.cli.evaluate import get_world_settings
    from unipixel.stickers import write_samples

    if seed < 0:
        raise ValueError(f"--seed is {seed}; it must be 0 or more")
    for name, folder in (("--sprites", sprites), ("--photos", photos)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name} is {folder}, which is not a folder")
    check_folder(out, "--out")
    settings = replace(get_world_settings(world, sprites), photos=photos)
    with stderr().status(f"drawing {count} samples"):
        files = write_samples(count, out, seed, video=video, settings=settings)
    typer.echo(f"wrote {len(files)} files to {out}; start with {files[-1]}")
