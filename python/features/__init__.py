"""Feature files from raw content: for a shop whose catalogue has titles, pictures or recordings, but no vectors.

`make.make_features`, behind `mmssl-fast features text|image|audio`, reads contents (contents.py), lets an encoder turn
them into vectors (text.py, image.py, audio.py), keeps every finished part on disk (parts.py), and writes a feature file
with ids (output.py), which `train` and `recommend --new-items` read.
"""
