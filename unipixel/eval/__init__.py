"""Evaluation: what is asked, how it is scored, and how our figures compare with the published ones.

benchmarks.py   the literal table: data, protocol and published figures of every benchmark
differences.py  the literal table of what ``--protocol original`` does differently
protocols.py    what every protocol has; the single ones:
    video_masks.py  image_masks.py  choices.py  pixelqa.py  captions.py  sticker_figures.py
questions.py    the records between the parts                       predict.py  a model, the truth, and nothing
runner.py       asks and scores, unit by unit                        lines.py    predictions on disk, safe from kills
judge.py        grades of descriptions by an endpoint                zips.py     uploads for servers
report.py       figures beside the published ones                    pages.py    the same as a page with pictures
stickers.py     the figures of the built-in world
"""
