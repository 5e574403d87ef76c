"""Evaluation: what is asked, how it is scored, and how our figures compare with the published ones.

benchmarks.py   the literal table: data, protocol and published figures of every benchmark
protocols.py    what every protocol has, with the records between the parts; the single ones:
    expression_masks.py  prompted_masks.py  choices.py  pixelqa.py  captions.py  stickers.py
predictors.py   a model, the truth, and nothing          runner.py       asks and scores, batch by batch
predictions.py  lines on disk, safe from kills; uploads  judge.py        grades of descriptions by an endpoint
report.py       figures beside the published ones        pages.py        the same as a page with pictures
"""
