"""A page to click and ask, for a laptop or a hosted Space: pip install gradio, then python examples/gradio_app.py.

For a Space this file is ``app.py``, beside a ``requirements.txt`` of two lines (this package and ``gradio``) and a
``README.md`` that begins with ``sdk: gradio`` and ``app_file: app.py``. UNIPIXEL_MODEL names another model than nano.
"""

import os
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import unipixel
from unipixel.media import Limits

EXAMPLES = Path(str(files("unipixel") / "examples"))
LIMITS = Limits(max_bytes=64 << 20, max_frames=20_000, max_decoder_s=20)
"""Of what strangers upload."""
NUM_FRAMES, MAX_CHARACTERS = 16, 500


@cache
def load_engine() -> unipixel.Engine:
    """The model, read once for everybody."""
    return unipixel.load(os.environ.get("UNIPIXEL_MODEL", "nano"))


def ask_picture(picture: str | None, question: str, clicks: list[tuple[int, int]]) -> tuple[Any, str]:
    """The picture with masks, and the answer in words with a line for every object.

    Args:
        picture: path of the upload.
        clicks: (x, y) in its pixels; all on one object.

    Raises:
        UnipixelError: the picture or the question is not usable.
    """
    prompts = [unipixel.Point(x, y, object_id=1) for x, y in clicks]
    answer = ask(picture, question, prompts)
    return answer.image, describe(answer)


def ask_clip(clip: str | None, question: str) -> tuple[str, str]:
    """A video with masks as a file, and the answer in words.

    Raises:
        UnipixelError: the clip or the question is not usable.
    """
    answer = ask(clip, question, [])
    path = Path(tempfile.mkdtemp(prefix="unipixel-")) / "answer.mp4"
    return str(answer.save(path)), describe(answer)


def ask(source: str | None, question: str, prompts: list[unipixel.Point]) -> unipixel.Answer:
    """Open what was uploaded, ask, and close it again."""
    if not source:
        raise unipixel.MediaError("there is nothing to ask about yet; upload something, or take an example")
    if len(question) > MAX_CHARACTERS:
        raise unipixel.PromptError(f"the question has {len(question)} characters; at most {MAX_CHARACTERS} are read")
    with load_engine().open(source, num_frames=NUM_FRAMES, limits=LIMITS) as session:
        return session.ask(question.strip() or None, prompts=prompts)


def describe(answer: unipixel.Answer) -> str:
    """The words of an answer, and a line for every object."""
    lines = [answer.text]
    for one in answer.objects:
        score = one.score if isinstance(one.score, str) else f"score {one.score:.2f}"
        lines.append(f"[{one.id}] {one.label}: {score}".replace(" :", ":"))
    return "\n".join(lines)


def build_page() -> Any:
    """The page; errors of the package are shown as one sentence."""
    import gradio as gr

    def show_errors(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except unipixel.UnipixelError as error:
            raise gr.Error(str(error)) from None

    def click(clicks: list[tuple[int, int]], event: gr.SelectData) -> tuple[list[tuple[int, int]], str]:
        clicks = [*clicks, tuple(event.index)]
        return clicks, "clicks: " + ", ".join(map(str, clicks))

    with gr.Blocks(title="unipixel", analytics_enabled=False) as page:
        gr.Markdown("# unipixel\nAsk about a picture or a clip; the answer comes with masks. nano knows drawn things.")
        with gr.Tab("Picture"):
            clicks = gr.State([])
            with gr.Row():
                picture = gr.Image(type="filepath", label="Picture: click on something, or ask in words")
                shown = gr.Image(label="Masks", interactive=False)
            marks = gr.Markdown("no clicks")
            question = gr.Textbox(label="Question", value="Please segment the dog.")
            with gr.Row():
                send, clear = gr.Button("Ask", variant="primary"), gr.Button("Forget the clicks")
            words = gr.Textbox(label="Answer", lines=3)
            gr.Examples([[str(EXAMPLES / "picture.png")]], [picture])
            picture.select(click, clicks, [clicks, marks])
            for forget in (clear.click, picture.change):
                forget(lambda: ([], "no clicks"), None, [clicks, marks])
            asked = [picture, question, clicks]
            send.click(lambda *given: show_errors(ask_picture, *given), asked, [shown, words], api_name="ask_picture")
        with gr.Tab("Clip"):
            with gr.Row():
                clip, followed = gr.Video(label="Clip"), gr.Video(label="Masks", interactive=False)
            request = gr.Textbox(label="Question", value="Please segment the butterfly.")
            follow, said = gr.Button("Ask", variant="primary"), gr.Textbox(label="Answer", lines=3)
            gr.Examples([[str(EXAMPLES / "clip.mp4")]], [clip])
            asked = [clip, request]
            follow.click(lambda *given: show_errors(ask_clip, *given), asked, [followed, said], api_name="ask_clip")
    return page.queue(max_size=20, default_concurrency_limit=1)


if __name__ == "__main__":
    build_page().launch(max_file_size="64mb")
