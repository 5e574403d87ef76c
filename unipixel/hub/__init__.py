"""The doors to `transformers` and lmms-eval: the same engine behind the classes that their users call.

pretrained.py  config, model and processor for the Auto classes, and the pipeline
lmms_eval.py   the model plugin of lmms-eval
"""
