"""Inference: load a model, open media, ask, point, correct and remember.

engine.py    load, open, and questions about many media at once     session.py  one conversation about one clip
rounds.py    how a question is answered                             dialogue.py the language model and its cache
generate.py  the decode loop                                        tracking.py objects through frames
objects.py   prompts and states to objects with masks               memory.py   objects by id
features.py  SAM's features of frames, each computed once           storage.py  sessions as files
answer.py    what comes back, and its export formats                timing.py   seconds per stage
"""
