"""Inference: load a model, open media, ask, point, correct, track and undo.

engine.py      load, open, and questions about many media   session.py         one conversation about one clip
requests.py    what is asked, checked                       request_parser.py  requests for several things
turn.py        how a question is answered                   dialogue.py        the language model and its cache
generation.py  the decode loop                              detokenizer.py     tokens to the text that users read
objects.py     prompts and states to objects with masks     tracking.py        objects through the frames
memory.py      objects by id, and their changes             storage.py         sessions as files
answer.py      what comes back, and its export formats      doctor.py          what is wrong with a checkpoint
pretrained.py  folders for transformers, and uploads           footprint.py       memory, predicted
"""
